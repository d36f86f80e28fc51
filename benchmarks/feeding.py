"""Promise: training runs at nine tenths or more of its speed on batches that lie in memory.

A set of random images is made, and `cnn`, then the fine-tuning of `inception`, train on it through
medkit's input: codes are held, looked at through the window, varied and put into batches while the
network computes. Against that, the same network, compiled alike, takes as many steps by Keras's
``train_on_batch`` on made-up batches of float32 that are there. In turn, in one process; the first
epoch, in which the step is compiled, does not count. Prints images a second and ratios.

    python benchmarks/feeding.py [cnn inception] [--images 512] [--size 299] [--epochs 4]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

from medkit.catalog.scan import Root, scan
from medkit.catalog.store import Catalog
from medkit.images.imageset import ImageSet
from medkit.images.normalisation import Recipe, normalise
from medkit.plugins import load_trainer
from medkit.testing import write_cohort
from medkit.training.contract import LabelledImages, RunContext
from medkit.training.params import parse_options

Network = Any


def make_part(folder: Path, images: int, size: int) -> LabelledImages:
    """Return labelled images of a set on disk."""
    persons = max(images // 8, 2)
    write_cohort(folder / "tree", persons=persons, per_person=8, size=size)
    scan(folder / "catalog", [Root("local", folder / "tree")])
    normalise(Catalog.open(folder / "catalog"), folder / "set", Recipe((size, size)))
    found = ImageSet.open(folder / "set").images()
    labels = np.arange(len(found), dtype=np.int64) % 2
    return LabelledImages(
        found, labels, found.table["person"].to_numpy(str), ("a", "b"), np.ones(len(found), "f4")
    )


def train_by_medkit(
    name: str, options: Mapping[str, str], part: LabelledImages, epochs: int, folder: Path
) -> tuple[list[float], Any]:
    """Train, and return the images a second of the last epochs, and the model."""
    trainer = load_trainer(name)
    speeds: dict[int, float] = {}
    epoch = 0

    def note(facts: Mapping[str, Any]) -> None:
        nonlocal epoch
        epoch = int(facts.get("epoch", epoch))
        if "images_per_second" in facts:  # the last word of an epoch is of all its steps
            speeds[epoch] = facts["images_per_second"]

    (folder / "checkpoints").mkdir(parents=True)
    run = RunContext(7, folder, folder / "checkpoints", threads=os.cpu_count() or 1, facts=note)
    model = trainer(parse_options(trainer.Params, options)).fit(part, part.take([]), run)
    last = list(speeds.values())[1 - epochs :]
    return last, model


def train_by_keras(network: Network, batch: int, images: int, epochs: int) -> list[float]:
    """Train the network on batches that are there, and return images a second of each epoch."""
    import keras

    random, shape = np.random.default_rng(0), network.input_shape[1:]
    pixels = random.uniform(-1, 1, (batch, *shape)).astype(np.float32)
    labels, weights = np.arange(batch) % 2, np.ones(batch, np.float32)
    network.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy")
    network.train_on_batch(pixels, labels, weights)
    speeds = []
    for _ in range(epochs):
        began = time.perf_counter()
        for _ in range(-(-images // batch)):
            network.train_on_batch(pixels, labels, weights)
        speeds.append(-(-images // batch) * batch / (time.perf_counter() - began))
    return speeds


def free_blocks(network: Network) -> None:
    """Let the blocks train that fine-tuning trains."""
    from medkit_inception.network import train_blocks

    train_blocks(network, layer="mixed10", blocks=2)


# Options of the trainer, images a step, and what sets which layers train.
CASES: dict[str, tuple[dict[str, str], int, Callable[[Network], None]]] = {
    "cnn": ({}, 32, lambda network: None),
    "inception": ({"weights": "none", "finetune": "2", "head_epochs": "1"}, 32, free_blocks),
}


def measure(name: str, part: LabelledImages, size: int, epochs: int, folder: Path) -> None:
    """Print a line for a trainer."""
    options, batch, free = CASES[name]
    given = {**options, "epochs": str(epochs), "patience": str(epochs)}
    given |= {"size": str(size)} if name == "inception" else {}
    ours, model = train_by_medkit(name, given, part, epochs, folder / name)
    free(model.network)
    peers = train_by_keras(model.network, batch, len(part), epochs - 1)
    mine, peer = statistics.median(ours), statistics.median(peers)
    print(f"{name}: {mine:.1f} images/s through medkit, {peer:.1f} from memory: {mine / peer:.2f}")


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("trainers", nargs="*", choices=[[], *CASES], default=[])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--size", type=int, default=299)
    parser.add_argument("--epochs", type=int, default=4)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        part = make_part(Path(temporary), asked.images, asked.size)
        for name in asked.trainers or CASES:
            few = part.take(np.arange(min(len(part), 128))) if name == "inception" else part
            measure(name, few, asked.size, asked.epochs, Path(temporary))


if __name__ == "__main__":
    main()
