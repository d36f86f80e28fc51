"""Promise: features are computed once, in the time of one pass, and cost next to nothing after.

(a) The protocol of the 2019 notes, scaled: 400 steps of 256 features drawn evenly from the classes,
with replacement; Adam at 1e-3 on a softmax layer; the whole validation part looked at every 10
steps. On text files of 2,048 numbers, one an image, as those notes kept them, and on medkit's
KEY.npy. Both run the same NumPy code; only the reading differs, and the losses are equal.

(b) `medkit train --plugin inception -p weights=none --folds 5`, the whole command in a process of
its own, from a set and with no features kept, against a whole script of one bare `model.predict`,
which reads the same decoded images as float32 from one .npy. Random images, or random weights,
take the same time as others.

(c) The linear head over five folds and twelve strengths, each strength chosen by five inner folds:
305 fits a way. medkit on two cores, with the start of its processes, against a loop with
scikit-learn's LogisticRegression, with its default tolerance and as many BLAS threads as it
likes, over the same folds, strengths and standardised features. Then how far medkit's five results
are from the optimum, by scikit-learn in float64 with a tolerance of 1e-10. The features are made
up, skewed and correlated as those of networks are, unless an .npz with ``features``, ``labels``
and ``persons`` is given.

    python benchmarks/training.py [a b c] [--images 2000] [--size 299] [--rounds 3] [--npz FILE]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from medkit.cohort.division import make_inner_folds
from medkit.engine import map_items
from medkit.statistics.linear import STRENGTHS, LinearHead, fit_linear
from medkit.statistics.metrics import log_loss
from medkit.training.features import compute_features, open_features

WIDTH = 2048
STEPS, BATCH, EVERY = 400, 256, 10
FOLDS = 5

Read = Callable[[np.ndarray], np.ndarray]


def train_softmax(read: Read, labels: np.ndarray, validation: np.ndarray) -> float:
    """Train as the notes do and return the last loss on the validation part."""
    random, held = np.random.default_rng(0), np.flatnonzero(validation)
    classes = int(labels.max()) + 1
    pools = [np.flatnonzero((labels == one) & ~validation) for one in range(classes)]
    layer = [np.zeros((WIDTH, classes), np.float32), np.zeros(classes, np.float32)]
    first, second = [[np.zeros_like(one) for one in layer] for _ in range(2)]
    loss = 0.0
    for step in range(1, STEPS + 1):
        shares = np.bincount(random.integers(0, classes, BATCH), minlength=classes)
        drawn = np.concatenate([random.choice(*one) for one in zip(pools, shares, strict=True)])
        rate = 1e-3 * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        gradients = compare(read(drawn), labels[drawn], layer)[1]
        for one, gradient, mean, square in zip(layer, gradients, first, second, strict=True):
            mean += 0.1 * (gradient - mean)
            square += 0.001 * (gradient**2 - square)
            one -= (rate * mean / (np.sqrt(square) + 1e-8)).astype(np.float32)
        if step % EVERY == 0:
            loss = compare(read(held), labels[held], layer)[0]
    return loss


def compare(x: np.ndarray, labels: np.ndarray, layer: list[np.ndarray]) -> tuple[float, list[Any]]:
    """Return the mean loss of a softmax layer, and the gradients of its weights and bias."""
    weights, bias = layer
    logits = x @ weights + bias
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    odds /= odds.sum(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    loss = float(-np.log(odds[rows, labels] + 1e-12).mean())
    odds[rows, labels] -= 1
    odds /= len(labels)
    return loss, [x.T @ odds, odds.sum(axis=0)]


class Numbered:
    """Images that have features already, as `compute_features` wants them."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows
        self.hashes = np.array([f"{row:032x}" for row in rows])

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: np.ndarray) -> Numbered:
        return Numbered(self.rows[rows])


def compare_protocols(images: int, rounds: int) -> None:
    """Print (a)."""
    features, labels, _ = make_features(images)
    validation = np.arange(images) % 10 == 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for row, values in enumerate(features):
            (folder / f"{row}.txt").write_text(",".join(map(str, values.tolist())))
        key, rows = compute_features(
            Numbered(np.arange(images)),  # type: ignore[arg-type]
            folder,
            {},
            lambda batch: features[batch.rows],  # type: ignore[attr-defined]
            lambda *_: None,
        )

        def by_text() -> float:
            return train_softmax(lambda drawn: read_texts(folder, drawn), labels, validation)

        def by_medkit() -> float:
            kept = open_features(folder, key)
            return train_softmax(lambda drawn: kept[rows[drawn]], labels, validation)

        ratios = []
        for _ in range(rounds):
            (text, loss), (own, same) = clock(by_text), clock(by_medkit)
            assert abs(loss - same) < 1e-4, (loss, same)
            ratios.append(text / own)
            print(f"(a) text {text:.1f} s, medkit {own:.2f} s: {text / own:.0f} times")
    print(f"(a) {statistics.median(ratios):.0f} times less time, median; promised: 35")


def read_texts(folder: Path, rows: np.ndarray) -> np.ndarray:
    """Read features as the notes do."""
    lines = [(folder / f"{row}.txt").read_text().split(",") for row in rows]
    return np.array([[float(value) for value in line] for line in lines], np.float32)


BARE = """
import sys
import numpy as np
import keras
images = np.load(sys.argv[1])
network = keras.applications.InceptionV3(
    include_top=False, weights=None, pooling="avg", input_shape=images.shape[1:]
)
features = network.predict(images, batch_size=32, verbose=0)
assert features.shape == (len(images), 2048), features.shape
"""


def compare_inception(images: int, size: int, rounds: int) -> None:
    """Print (b)."""
    with tempfile.TemporaryDirectory() as name:
        root, decoded = Path(name) / "workspace", Path(name) / "decoded.npy"
        make_set(Path(name) / "images", root, decoded, images, size)
        options = ["-p", "weights=none", "-p", "layer=mixed10", "-p", f"size={size}"]
        task = ["train", "set", "--label", "finding", "--plugin", "inception", *options]
        ratios = []
        for number in range(rounds):
            own = clock(lambda number=number: medkit(root, *task, "--name", f"run{number}"))[0]
            bare = clock(lambda: run([sys.executable, "-c", BARE, str(decoded)]))[0]
            for path in (root / "features").iterdir():
                path.unlink()
            ratios.append(own / bare)
            print(f"(b) medkit {own:.1f} s, one predict {bare:.1f} s: {own / bare:.3f}")
    print(f"(b) {statistics.median(ratios):.3f} times the time, median; promised: 1.15")


def make_set(folder: Path, root: Path, decoded: Path, images: int, size: int) -> None:
    """Write random pictures, a set of them, and the same decoded."""
    from PIL import Image

    from medkit.images.imageset import ImageSet

    folder.mkdir()
    random = np.random.default_rng(0)
    rows = ["path,patient_id,label"]
    for number in range(images):
        coarse = random.integers(0, 256, (19, 19), np.uint8)
        Image.fromarray(coarse).resize((size, size)).save(folder / f"{number}.png")
        rows.append(f"{number}.png,P{number // 2},{'ab'[number // 2 % 2]}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    medkit(root, "catalog", str(folder))
    medkit(root, "label", "finding", "--csv", str(folder / "labels.csv"))
    medkit(root, "normalise", "set", "--size", str(size))
    view = {"channels": 3, "size": size, "scale": (-1.0, 1.0)}
    np.save(decoded, ImageSet.open(root / "sets" / "set").images().with_view(**view)[:])


def medkit(root: Path, *arguments: str) -> None:
    """Run a command line in a process of its own."""
    run([sys.executable, "-m", "medkit", *arguments, "-w", str(root)])


def run(command: list[str]) -> None:
    """Run a command and raise if it fails."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)


def make_features(images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features that are skewed and correlated, labels they tell of, and persons."""
    random = np.random.default_rng(0)
    persons = np.arange(images) // 2
    labels = persons % 2
    latent = random.normal(size=(images, 256)) * np.arange(1, 257) ** -0.5
    latent[:, ::4] += 0.03 * (labels[:, np.newaxis] - 0.5)
    mixed = latent @ random.normal(size=(256, WIDTH)) + 0.3 * random.normal(size=(images, WIDTH))
    return np.maximum(mixed, 0).astype(np.float32), labels, persons


def solve_fold(task: tuple[str, int]) -> LinearHead:
    """Solve one outer fold as `medkit.training.head` does."""
    folder, fold = Path(task[0]), task[1]
    labels, persons = np.load(folder / "labels.npy"), np.load(folder / "persons.npy")
    rest = np.flatnonzero(persons % FOLDS != fold)
    features = np.load(folder / "features.npy", mmap_mode="r")[rest]
    labels, persons = labels[rest], persons[rest]
    inner = make_inner_folds(persons, labels, 0)
    return fit_linear(features, labels, persons, int(labels.max()) + 1, inner=inner)


def solve_by_medkit(folder: Path) -> list[LinearHead]:
    """Solve the five folds on two cores."""
    tasks = [(str(folder), fold) for fold in range(FOLDS)]
    done = {one.item[1]: one.result for one in map_items(solve_fold, tasks, workers=2)}
    return [done[fold] for fold in range(FOLDS)]  # type: ignore[misc]


def solve_by_loop(folder: Path) -> list[Any]:
    """Solve them as one does by hand."""
    from sklearn.linear_model import LogisticRegression

    models = []
    for x, labels, inner in list_problems(folder):
        losses = []
        for strength in STRENGTHS:
            given = np.empty((len(labels), int(labels.max()) + 1))
            for fold in range(FOLDS):
                rest = inner != fold
                model = LogisticRegression(C=1 / (strength * rest.sum()), max_iter=10_000)
                given[~rest] = model.fit(x[rest], labels[rest]).predict_proba(x[~rest])
            losses.append(float(log_loss(labels, given)))
        best = STRENGTHS[int(np.argmin(losses))]
        model = LogisticRegression(C=1 / (best * len(labels)), max_iter=10_000)
        models.append(model.fit(x, labels))
    return models


def list_problems(folder: Path) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return standardised features, labels and inner folds of each training part."""
    from sklearn.preprocessing import StandardScaler

    features = np.load(folder / "features.npy")
    labels, persons = np.load(folder / "labels.npy"), np.load(folder / "persons.npy")
    problems = []
    for fold in range(FOLDS):
        rest = persons % FOLDS != fold
        inner = make_inner_folds(persons[rest], labels[rest], 0)
        assert inner is not None and inner.max() == FOLDS - 1
        problems.append((StandardScaler().fit_transform(features[rest]), labels[rest], inner))
    return problems


def measure_gap(head: LinearHead, x: np.ndarray, labels: np.ndarray, raw: np.ndarray) -> float:
    """Return the mean loss, with the penalty, of a head of two classes less that of a tight fit."""
    from sklearn.linear_model import LogisticRegression

    scale = raw.std(axis=0, dtype=np.float64)

    def lose(given: np.ndarray, weights: np.ndarray) -> float:
        chances = np.maximum(given[np.arange(len(labels)), labels], 1e-300)
        return float(-np.log(chances).mean() + head.strength / 2 * (weights**2).sum())

    model = LogisticRegression(C=1 / (head.strength * len(labels)), tol=1e-10, max_iter=100_000)
    model.fit(x.astype(np.float64), labels)
    own = lose(head.predict_proba(raw.astype(np.float64)), head.weights[1] * scale)
    return own - lose(model.predict_proba(x.astype(np.float64)), model.coef_[0])


def compare_heads(images: int, rounds: int, npz: Path | None) -> None:
    """Print (c)."""
    features, labels, persons = read_npz(npz) if npz else make_features(images)
    with tempfile.TemporaryDirectory() as name:
        folder, ratios = Path(name), []
        for part, values in (("features", features), ("labels", labels), ("persons", persons)):
            np.save(folder / f"{part}.npy", values)
        for _ in range(rounds):
            own, heads = clock(lambda: solve_by_medkit(folder))
            loop, _ = clock(lambda: solve_by_loop(folder))
            ratios.append(loop / own)
            print(f"(c) medkit {own:.1f} s, scikit-learn {loop:.1f} s: {loop / own:.1f} times")
        gaps = [
            measure_gap(head, x, part, features[persons % FOLDS != fold])
            for fold, (head, (x, part, _)) in enumerate(
                zip(heads, list_problems(folder), strict=True)
            )
        ]
    print(f"(c) {statistics.median(ratios):.1f} times as fast, median; promised: 3")
    print(f"(c) mean loss above the optimum: {max(gaps):.1e} at most; promised: 1e-6")


def read_npz(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features, labels and persons; of the classes the two first."""
    content = np.load(path)
    labels = np.unique(content["labels"], return_inverse=True)[1]
    persons = np.unique(content["persons"], return_inverse=True)[1]
    kept = labels < 2
    return content["features"][kept].astype(np.float32), labels[kept], persons[kept]


def clock(function: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that a call takes, and what it returns."""
    began = time.perf_counter()
    result = function()
    return time.perf_counter() - began, result


def main() -> None:
    """Measure what is asked for, by default everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=["a", "b", "c"], default=["a", "b", "c"])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--size", type=int, default=299)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--npz", type=Path)
    asked = parser.parse_args()
    if "a" in asked.parts:
        compare_protocols(asked.images, asked.rounds)
    if "b" in asked.parts:
        compare_inception(asked.images, asked.size, asked.rounds)
    if "c" in asked.parts:
        compare_heads(asked.images, asked.rounds, asked.npz)


if __name__ == "__main__":
    main()
