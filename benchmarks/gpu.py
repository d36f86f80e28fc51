"""Measure: inception on a GPU, by medkit and by a plain Keras script, on JAX and on PyTorch.

Images a second of frozen features and of fine-tuning, how busy the GPU was meanwhile, and minutes
for five folds of each by the command that a user would type. The plain script calls ``predict``
and ``fit`` of the very same network, in the same precision, on the same images, which lie decoded
in memory as float32: it has no input to speak of. Everything is timed after a first pass that
compiles. Images are synthetic, weights random, so that nothing is downloaded; TensorFlow is
measured too where it is installed, and need not be.

    python benchmarks/gpu.py [--size 299] [--batch 256] [--images 2560] [--blocks 3] [--epochs 2]
                             [--backends jax,torch]

Without a GPU it shows that it runs: in a setting that is small, on the CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from medkit.testing import write_cohort

BACKENDS = ("jax", "torch", "tensorflow")
ON_GPU = {"size": 299, "batch": 256, "images": 2560, "blocks": 3, "epochs": 2}
ON_CPU = {"size": 75, "batch": 8, "images": 64, "blocks": 1, "epochs": 2}
PER_PERSON = 4
PLAIN = {"shift": 0.0, "rotate": 0.0, "zoom": 0.0, "intensity": 0.0}
Setting = argparse.Namespace


def ask_gpu(question: str) -> list[str]:
    """Return what nvidia-smi says of each GPU; nothing where there is none."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    query = [command, f"--query-gpu={question}", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True)
    return done.stdout.splitlines() if done.returncode == 0 else []


@contextmanager
def watch() -> Iterator[Callable[[], str]]:
    """Yield what says, of the time since, how long it was and how busy the first GPU."""
    began, samples, ended = time.perf_counter(), list[float](), threading.Event()

    def sample() -> None:
        while not ended.wait(0.5) and (found := ask_gpu("utilization.gpu")):
            samples.append(float(found[0]))

    thread = threading.Thread(target=sample)
    thread.start()

    def busy() -> float:
        return sum(samples) / len(samples)

    spent = list[float]()
    try:
        yield lambda: f"{spent[0]:.1f} s" + (f", GPU {busy():.0f} % busy" if samples else "")
    finally:
        spent.append(time.perf_counter() - began)
        ended.set()
        thread.join()


def open_part(workspace: Path) -> Any:
    """Return all images of the set, with labels that mean nothing."""
    from medkit.images.imageset import ImageSet
    from medkit.training.contract import LabelledImages

    images = ImageSet.open(workspace / "sets" / "cohort").images()
    labels = np.arange(len(images)) % 2
    persons = np.array([f"person {number}" for number in labels])
    return LabelledImages(images, labels, persons, ("a", "b"), np.ones(len(images), np.float32))


def make_context(folder: Path, **keywords: Any) -> Any:
    """Return the context of a fit that keeps nothing."""
    from medkit.training.contract import RunContext

    made = Path(tempfile.mkdtemp(dir=folder))
    threads = len(os.sched_getaffinity(0))
    return RunContext(seed=1, folder=made, checkpoints=made, threads=threads, **keywords)


def measure_frozen(workspace: Path, setting: Setting) -> Iterator[str]:
    """Compare the pass that makes features with ``predict``."""
    from medkit_inception import InceptionParams, InceptionTrainer

    params = InceptionParams(weights="none", size=setting.size, batch_size=setting.batch)
    trainer, part = InceptionTrainer(params), open_part(workspace)
    network, pixels = trainer.feature_network(), part.images.with_view(**params.view)[:]
    ways = {
        "medkit, from the set": lambda: trainer.features(part.images, make_context(workspace)),
        "plain predict": lambda: network.predict(pixels, batch_size=setting.batch, verbose=0),
    }
    for call in ways.values():
        call()
    for name, call in ways.items():
        with watch() as tell:
            began = time.perf_counter()
            call()
            speed = len(pixels) / (time.perf_counter() - began)
        yield f"frozen, {name}: {speed:,.4g} images/s ({tell()})"


def measure_tuned(workspace: Path, setting: Setting) -> Iterator[str]:
    """Compare the epochs of fine-tuning with those of ``fit``."""
    from medkit_inception import InceptionParams
    from medkit_inception.tuning import make_plan
    from medkit_inception.weights import find_weights

    asked = {
        "weights": "none",
        "size": setting.size,
        "batch_size": setting.batch,
        "finetune": setting.blocks,
        "epochs": setting.epochs,
        "patience": setting.epochs,
    }
    part = open_part(workspace)
    for name, varied in (("medkit", PLAIN), ("medkit, images varied", {})):
        plan = make_plan(InceptionParams(**asked, **varied), find_weights("none"))
        with watch() as tell:
            speed = fit_by_medkit(replace(plan, stages=plan.stages[1:]), part, workspace)
        yield f"fine-tuned, {name}: {speed:,.4g} images/s in the last epoch (all: {tell()})"
    with watch() as tell:
        policy, speed = fit_plainly(plan, part, setting)
    yield f"fine-tuned, plain fit: {speed:,.4g} images/s in the last epoch (all: {tell()})"
    yield f"fine-tuned: top {setting.blocks} blocks, {setting.epochs} epochs, in {policy}"


def fit_by_medkit(plan: Any, part: Any, workspace: Path) -> float:
    """Return images a second of the last epoch."""
    from medkit.networks.fitting import fit_network

    told: list[float] = []

    def hear(facts: Any) -> None:
        told.extend(value for name, value in facts.items() if name == "images_per_second")

    nothing = part.take(np.arange(0))
    fit_network(plan, part, nothing, make_context(workspace, facts=hear))
    return told[-1]


def fit_plainly(plan: Any, part: Any, setting: Setting) -> tuple[str, float]:
    """Return the precision, and images a second of the last epoch."""
    import keras

    from medkit.networks.hardware import choose_policy, find_gpu

    pixels, ends = part.images.with_view(**plan.view)[:], [0.0]
    policy = choose_policy("auto", find_gpu())
    keras.config.set_dtype_policy(policy)
    network = plan.build(pixels.shape[1:], 2)
    plan.stages[-1].unfreeze(network)
    network.compile(keras.optimizers.Adam(1e-4), loss="sparse_categorical_crossentropy")
    note = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: ends.append(time.perf_counter()),
        on_epoch_end=lambda epoch, logs: ends.append(time.perf_counter()),
    )
    options = {"batch_size": setting.batch, "epochs": setting.epochs, "verbose": 0}
    network.fit(pixels, part.labels, callbacks=[note], **options)
    return policy, len(pixels) / (ends[-1] - ends[-2])


CHILDREN = {"frozen": measure_frozen, "tuned": measure_tuned}


def medkit(workspace: Path, *arguments: str) -> None:
    """Run a command, quietly."""
    command = [sys.executable, "-m", "medkit", *arguments, "-w", str(workspace)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"medkit {' '.join(arguments)} failed: {done.stderr}")


def prepare(folder: Path, setting: Setting) -> Path:
    """Return a workspace with a set and a label."""
    persons, workspace = -(-setting.images // PER_PERSON), folder / "workspace"
    write_cohort(folder / "cohort", persons=persons, per_person=PER_PERSON, size=setting.size)
    medkit(workspace, "catalog", str(folder / "cohort"))
    medkit(workspace, "label", "kind", "--tag", "Modality")
    medkit(workspace, "normalise", "cohort", "--size", str(setting.size))
    return workspace


def time_folds(workspace: Path, setting: Setting, name: str, **options: object) -> None:
    """Print how long five folds take, the whole command."""
    given = {"weights": "none", "size": setting.size, "batch_size": setting.batch, **options}
    texts = [text for key, value in given.items() for text in ("-p", f"{key}={value}")]
    with watch() as tell:
        medkit(workspace, "train", "cohort", "--plugin", "inception", "--label", "kind", *texts)
    print(f"five folds, {name}, the whole command: {tell()}", flush=True)


def measure(workspace: Path, setting: Setting, backend: str) -> None:
    """Print all figures of a backend."""
    print(f"\n{backend}", flush=True)
    os.environ["KERAS_BACKEND"] = backend
    for child in CHILDREN:
        facts = json.dumps(vars(setting))
        subprocess.run([sys.executable, __file__, child, str(workspace), facts], check=True)
    time_folds(workspace, setting, "frozen")
    epochs = {"head_epochs": 1, "epochs": setting.epochs}
    name = f"fine-tuned, 1 + {setting.epochs} epochs"
    time_folds(workspace, setting, name, finetune=setting.blocks, **epochs)


def main() -> None:
    """Measure every backend that is installed, and print."""
    cards = ask_gpu("name")
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (ON_GPU if cards else ON_CPU).items():
        reader.add_argument(f"--{name}", type=int, default=value)
    found = [name for name in BACKENDS if find_spec(name)]
    reader.add_argument("--backends", default=",".join(found))
    setting = reader.parse_args()
    if not setting.backends:
        sys.exit("not measured: Keras has no backend here; install jax or torch")
    print(", ".join(cards) or "no GPU: these figures say nothing about one")
    print(", ".join(f"{name} {value}" for name, value in vars(setting).items()))
    with tempfile.TemporaryDirectory() as folder:
        workspace = prepare(Path(folder), setting)
        for backend in setting.backends.split(","):
            measure(workspace, setting, backend)


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in CHILDREN:
        _, child, workspace, facts = sys.argv
        for line in CHILDREN[child](Path(workspace), Setting(**json.loads(facts))):
            print(line, flush=True)
    else:
        main()
