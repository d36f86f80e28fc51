"""For the tests of every plugin: real `Images` in memory, and a study to run the host on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medkit.catalog.labels import ImageRule, label_images
from medkit.catalog.roots import Root
from medkit.catalog.scan import scan
from medkit.catalog.store import Catalog
from medkit.images.normalisation import Recipe, normalise
from medkit.images.reader import CachedCodes, Images
from medkit.plugins import list_plugins
from medkit.testing import write_cohort
from medkit.training.contract import LabelledImages, RunContext
from medkit.training.run import Finished, train
from medkit.workspace import Workspace

HEAVY = ("keras", "tensorflow", "jax", "torch", "sklearn", "matplotlib", "pandas")


@pytest.fixture(scope="session")
def make_images() -> Callable[..., Images]:
    """Return images (n, size, size) of 8 bits in which label 1 is bright on the left."""

    def make(labels: np.ndarray, size: int = 16, seed: int = 0) -> Images:
        random = np.random.default_rng(seed)
        codes = random.integers(0, 120, (len(labels), size, size)).astype(np.uint16)
        codes[np.asarray(labels) == 1, :, : size // 2] += 120
        table = pd.DataFrame(
            {
                "image": np.arange(len(codes)),
                "array": "uint16x1",
                "row": np.arange(len(codes)),
                "slope": 1.0,
                "intercept": 0.0,
                "full_low": 0.0,
                "full_high": 255.0,
                "WindowCenter": np.nan,
                "WindowWidth": np.nan,
                "VOILUTFunction": None,
                "pixels_sha256": [f"{number:064x}" for number in range(len(codes))],
            }
        )
        return Images(
            CachedCodes({"uint16x1": (np.arange(len(codes)), codes)}, (size, size)), table
        )

    return make


@pytest.fixture(scope="session")
def make_part(make_images: Callable[..., Images]) -> Callable[..., LabelledImages]:
    """Return labelled images, a person each."""

    def make(count: int, seed: int = 0, positive: float = 0.5, size: int = 16) -> LabelledImages:
        labels = (np.arange(count) < positive * count).astype(np.int64)
        return LabelledImages(
            make_images(labels, size, seed),
            labels,
            np.array([f"person {number}" for number in range(count)]),
            ("a", "b"),
            np.ones(count, np.float32),
        )

    return make


@pytest.fixture(scope="session")
def make_findings(make_images: Callable[..., Images]) -> Callable[..., LabelledImages]:
    """Return images with three labels, a person each: bright on the left, drawn, and its opposite.

    Of every fifth image the first label is not known, and of every fourth the third.
    """

    def make(count: int, seed: int = 0, size: int = 16) -> LabelledImages:
        random = np.random.default_rng(seed)
        bright = random.integers(0, 2, count)
        labels = np.column_stack([bright, random.integers(0, 2, count), 1 - bright])
        labels[::5, 0] = -1
        labels[1::4, 2] = -1
        return LabelledImages(
            make_images(bright, size, seed),
            labels,
            np.array([f"person {number}" for number in range(count)]),
            ("bright", "drawn", "opposite"),
            np.ones(count, np.float32),
        )

    return make


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunContext]:
    """Return the context of a fit; equal names share their checkpoints."""

    def make(name: str = "fit", **keywords: Any) -> RunContext:
        (tmp_path / name).mkdir(exist_ok=True)
        return RunContext(**{"seed": 7} | keywords, folder=tmp_path, checkpoints=tmp_path / name)

    return make


@pytest.fixture(scope="session")
def list_heavy() -> Callable[[str], list[str]]:
    """Return what heavy libraries are imported when a plugin is loaded as the host does."""

    def look(module: str) -> list[str]:
        code = (
            f"import sys, json, pluggy, {module}, medkit.hookspecs as specs\n"
            "manager = pluggy.PluginManager('medkit')\n"
            "manager.add_hookspecs(specs)\n"
            f"manager.register({module})\n"
            "assert manager.hook.medkit_trainer().Params()\n"
            f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
        )
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return list(json.loads(done.stdout))

    return look


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with a set of 36 images of 12 persons, who differ in the stripes they have."""
    root = tmp_path_factory.mktemp("study")
    home = Workspace(root / "workspace")
    scan(home.catalog, [Root("local", write_cohort(root / "tree", size=75))], workers=0)
    label_images(home.catalog, "kind", ImageRule("tag", "Modality", None))
    normalise(Catalog.open(home.catalog), home.set("stripes"), Recipe((75, 75)), workers=0)
    return home


@pytest.fixture(scope="session")
def train_on_study(study: Workspace) -> Callable[..., Finished]:
    """Cross-validate an installed trainer, in the child process that the host starts."""

    def run(plugin: str, **options: str) -> Finished:
        if plugin not in {entry.name for entry in list_plugins("trainer")}:
            pytest.skip(f"not installed: pip install -e plugins/medkit-{plugin}")
        with study.lock():
            return train(
                study,
                "stripes",
                plugin,
                label="kind",
                options=options,
                folds=2,
                device="cpu",
                threads=1,
            )

    return run
