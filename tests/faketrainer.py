"""Trainers made up for tests: folders with a module and its metadata, as pip leaves them."""

from __future__ import annotations

from pathlib import Path

from medkit.cli import main
from medkit.testing import write_cohort

HOOK = """
import medkit

@medkit.hookimpl
def medkit_trainer():
    return {trainer}
"""

# Stripes of another direction differ in how much the means of rows and of columns vary.
SEE = """
import numpy as np


def see(images, view):
    pixels = images.with_view(**view)[:][..., 0]
    return 20 * np.stack([pixels.mean(axis=axis).std(axis=1) for axis in (1, 2)], axis=1)
"""

# The nearest centroid of that. What the environment says in FAKE_FAULT, such as "nan:1",
# goes wrong in that fold; the epochs leave a checkpoint each.
CENTROID = (
    SEE
    + """
import json
import os
import signal
import sys
import time
from dataclasses import dataclass

from medkit.errors import TrainingError

FAULT, _, WHERE = os.environ.get("FAKE_FAULT", ":").partition(":")
if FAULT == "import":
    raise RuntimeError("no GPU")


@dataclass(frozen=True)
class Params:
    size: int = 32
    epochs: int = 3
    pause: float = 0.0


class Model:
    def __init__(self, size, centroids, fault=""):
        self.size, self.centroids, self.fault = size, centroids, fault

    def predict_proba(self, images):
        pixels = see(images, {"size": self.size})
        distance = ((pixels[:, None] - self.centroids) ** 2).sum(axis=2)
        odds = np.exp(-(distance - distance.min(axis=1, keepdims=True)))
        values = odds / odds.sum(axis=1, keepdims=True)
        return FAULTY.get(self.fault, lambda values: values)(values)

    def save(self, folder):
        np.save(folder / "centroids.npy", self.centroids)
        (folder / "model.json").write_text(json.dumps([self.size, self.fault]))


FAULTY = {
    "nan": lambda values: values * np.nan,
    "shape": lambda values: values[:-1],
    "sums": lambda values: values / 2,
    "range": lambda values: values * [[3, -1]],
}


class Trainer:
    Params = Params
    tasks = frozenset({"multiclass"})

    def __init__(self, params):
        self.params = params

    def fit(self, train, validation, run):
        print("noise on standard output")
        print("columns", *train.images.table)
        print("sees", os.environ.get("CUDA_VISIBLE_DEVICES"), run.device)
        fault = FAULT if run.folder.name == f"fold-{WHERE}" else ""
        if fault == "raise":
            raise RuntimeError("the loss is lost")
        if fault == "exit":
            print("last words", file=sys.stderr, flush=True)
            os._exit(7)
        other = run.folder.parent / "fold-1"
        # Its checkpoints are there while it is fitted, its predictions from then on.
        marks = (other / "checkpoints", other / "predictions.npy")
        while fault == "meet" and not any(mark.exists() for mark in marks):
            time.sleep(0.05)
        checkpoint = run.checkpoints / "epoch.json"
        done = json.loads(checkpoint.read_text()) if checkpoint.exists() else 0
        for epoch in range(done, self.params.epochs):
            time.sleep(self.params.pause)
            if run.stopping():
                raise TrainingError(f"stopped in epoch {epoch}")
            run.look(epoch, -1.0 / (epoch + 1), chosen=True)
            if fault == "kill" and epoch == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            if fault == "orphan" and not (run.folder / "orphaned").exists():
                (run.folder / "orphaned").touch()
                os.kill(os.getppid(), signal.SIGKILL)
                time.sleep(60)
            checkpoint.write_text(json.dumps(epoch + 1))
            run.progress(epoch + 1, self.params.epochs, "epochs")
            run.status(epoch=epoch, epochs=self.params.epochs, batch_size=8)
            run.status(loss=1 / (epoch + 1), images_per_second=len(train))
            run.status(validation_loss=2 / (epoch + 1))
        pixels = see(train.images, {"size": self.params.size})
        centroids = np.stack([pixels[train.labels == c].mean(axis=0) for c in (0, 1)])
        random = np.random.default_rng(run.seed)
        return Model(self.params.size, centroids + random.normal(0, 1e-6, centroids.shape), fault)

    def load(self, folder):
        size, fault = json.loads((folder / "model.json").read_text())
        return Model(size, np.load(folder / "centroids.npy"), fault)
"""
    + HOOK.format(trainer="Trainer")
)

# The same as features, for the host's linear head. It counts what it computes in COUNTED.
FEATURES = (
    SEE
    + """
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Params:
    size: int = 32
    weights: str = "none"


class Trainer:
    Params = Params
    tasks = frozenset({"multiclass"})
    head = "linear"

    def __init__(self, params):
        self.params = params
        self.view = {"size": params.size, "window": "full"}

    @property
    def weights_used(self):
        return {"name": self.params.weights, "sha256": None, "pretrained": False}

    def feature_spec(self):
        named = {"extractor": "see/1"} if "FAKE_EXTRACTOR" in os.environ else {}
        return {"view": self.view, "weights": os.environ.get("FAKE_WEIGHTS", "w1"), **named}

    def features(self, images, run):
        with Path(os.environ["COUNTED"]).open("a") as file:
            file.write(f"{len(images)}\\n")
        values = see(images, self.view)
        return values * np.nan if os.environ.get("FAKE_FAULT") == "nan" else values
"""
    + HOOK.format(trainer="Trainer")
)


def install(
    folder: Path,
    distribution: str,
    code: str,
    *,
    names: tuple[str, ...] = (),
    version: str = "1.2.3",
) -> None:
    """Write a module and the ``dist-info`` that registers it as a trainer, once a name."""
    module = distribution.replace("-", "_")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{module}.py").write_text(code, encoding="utf-8")
    about = folder / f"{module}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\nSummary: Made up.\n"
    )
    points = "".join(f"{name} = {module}\n" for name in names or (distribution,))
    (about / "entry_points.txt").write_text(f"[medkit.trainers.v1]\n{points}")


def make_workspace(folder: Path, persons: int = 8) -> Path:
    """Return a workspace with a set of 16 images, two a person, and a label from a CSV."""
    images = write_cohort(folder / "images", persons=persons, per_person=2, size=32)
    rows = (f"P{person:03d},{('zebra', 'yak')[person % 2]}\n" for person in range(persons))
    (folder / "labels.csv").write_text("PatientID,animal\n" + "".join(rows))
    for command in (
        ["catalog", str(images), "--workers", "0"],
        ["label", "animal", "--csv", str(folder / "labels.csv")],
        ["normalise", "set", "--size", "32", "--workers", "0"],
    ):
        run_here([*command, "-w", str(folder / "workspace")])
    return folder / "workspace"


def run_here(arguments: list[str]) -> None:
    """Run the command line in this process."""
    try:
        main(arguments)
    except SystemExit as end:
        if end.code:
            raise
