"""Exported models: they give what the run gives, without medkit, or they are not there."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from faketrainer import CENTROID, FEATURES, HOOK, install, make_workspace, run_here
from typer.testing import CliRunner

from medkit.cli import export as verb
from medkit.errors import TrainingError, UsageError
from medkit.images.imageset import ImageSet
from medkit.statistics.calibration import apply_temperature
from medkit.statistics.linear import LinearHead
from medkit.statistics.metrics import SMALLEST_PROBABILITY
from medkit.training import application, prediction
from medkit.training import run as training
from medkit.training.exports import documents, export, joining, runtimes
from medkit.training.exports.export import export_model
from medkit.training.job import fold_folder
from medkit.training.result import seal_fold
from medkit.workspace import Workspace, read_json, write_json

pytest.importorskip("tensorflow")
FORMS = ("savedmodel", "onnx", "litert")
DOCUMENT = Path(__file__).parent.parent / "docs" / "models.md"

# A network of its own in every fold, kept as plain arrays: random, but for the seed of the fold.
NETWORK = """
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

VIEW = {"window": "full", "size": 16, "scale": (-1.0, 1.0)}
LIE = float(os.environ.get("FAKE_LIE", "0"))


@dataclass(frozen=True)
class Params:
    size: int = 16


def build(shape, classes):
    import keras

    pixels = keras.Input(shape)
    maps = keras.layers.Conv2D(4, 3, activation="tanh", name="conv")(pixels)
    maps = keras.layers.BatchNormalization(name="norm")(maps)
    rows = keras.layers.Dropout(0.9)(keras.layers.GlobalMaxPooling2D()(maps))
    out = keras.layers.Dense(classes, activation="softmax", name="probabilities")(rows)
    return keras.Model(pixels, out, name="always_the_same")


class Model:
    view = VIEW

    def __init__(self, network):
        self.network = network

    def predict_proba(self, images):
        found = self.network.predict(images.with_view(**VIEW)[:], verbose=0)
        return np.clip(found + LIE * np.array([[1, -1]]), 0, 1)

    def save(self, folder):
        np.savez(folder / "weights.npz", *self.network.get_weights())
        (folder / "network.json").write_text(json.dumps([16, 16, 1]))


class Trainer:
    Params = Params
    tasks = frozenset({"multiclass"})

    def __init__(self, params):
        self.params = params

    def fit(self, train, validation, run):
        import keras

        keras.utils.set_random_seed(run.seed)
        network = build(train.view(**VIEW).images.shape[1:], len(train.classes))
        values = np.random.default_rng(run.seed)
        network.set_weights([values.uniform(0.1, 1, w.shape) for w in network.get_weights()])
        return Model(network)

    def load(self, folder):
        Path(os.environ["LOADED"]).write_text("")
        network = build(json.loads((folder / "network.json").read_text()), 2)
        with np.load(folder / "weights.npz") as content:
            network.set_weights([content[name] for name in content.files])
        return Model(network)
""" + HOOK.format(trainer="Trainer")

# Two features of an image, as the host sees them and as a network.
PIXELS = FEATURES.replace(
    "    def features(", '''    def feature_network(self):
        import keras

        pixels = keras.Input((self.params.size, self.params.size, 1))
        grey = keras.layers.Reshape((self.params.size, self.params.size))(pixels)
        means = [keras.ops.mean(grey, axis=axis) for axis in (1, 2)]
        spreads = [keras.ops.std(mean, axis=1, keepdims=True) for mean in means]
        return keras.Model(pixels, 20 * keras.ops.concatenate(spreads, axis=1))

    def features('''
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A workspace with a run of each trainer, and what two of them predict of their set."""
    site = tmp_path_factory.mktemp("site")
    trainers = {"network": NETWORK, "pixels": PIXELS, "centroid": CENTROID, "features": FEATURES}
    folder = tmp_path_factory.mktemp("prepared")
    home = Workspace(make_workspace(folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        patch.setenv("COUNTED", str(folder / "counted"))
        patch.setenv("LOADED", str(folder / "loaded"))
        for name, code in trainers.items():
            install(site, f"fake-{name}", code, names=(name,))
        for name in trainers:
            training.train(
                home, "set", name, label="animal", folds=2, threads=1, device="cpu", name=name
            )
        for name in ("network", "pixels"):
            prediction.predict(home, name, "set", name=name, threads=1, device="cpu")
        yield home.root


@pytest.fixture
def home(trained: Path, tmp_path: Path) -> Workspace:
    shutil.copytree(trained, tmp_path / "workspace")
    return Workspace(tmp_path / "workspace")


def ship(home: Workspace, run: str, folder: Path, form: str = "onnx", **options: Any) -> Any:
    return export_model(home, run, folder, form, **({"threads": 1} | options))


def see(home: Workspace, record: Any) -> Any:
    return ImageSet.open(home.set("set")).images().with_view(**record["view"])[:]


def run_elsewhere(folder: Path, pixels: Any, script: str) -> dict[str, Any]:
    """Run a page's code in the folder, in a process that has no medkit."""
    np.save(folder.parent / "pixels.npy", pixels)
    lines = script.splitlines()
    (at,) = [number for number, line in enumerate(lines) if line.startswith("pixels = ")]
    lines[at] = f"pixels = np.load({str(folder.parent / 'pixels.npy')!r})"
    found = str(folder.parent / "found.npz")
    lines += [
        "import sys",
        "assert not [name for name in sys.modules if name.split('.')[0] == 'medkit']",
        f"np.savez({found!r}, **{{n: v for n, v in globals().items() if n in "
        "('probabilities', 'calibrated')})",
    ]
    command = [sys.executable, "-c", "\n".join(lines)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    with np.load(found) as content:
        return dict(content)


def list_snippets(page: str) -> dict[str, str]:
    """Return the code under each heading of a page."""
    parts = [part.partition("\n") for part in page.split("\n## ")[1:]]
    return {
        name: "".join(f"{line[4:]}\n" for line in body.splitlines() if line.startswith("    "))
        for name, _, body in parts
    }


@pytest.mark.parametrize(
    ("run", "form"), [*itertools.product(["network"], FORMS), ("pixels", "onnx")]
)
def test_what_the_page_says_gives_the_run_s_probabilities_without_medkit(
    run: str, form: str, home: Workspace, tmp_path: Path
) -> None:
    done = ship(home, run, tmp_path / "model", form)
    page = (done.folder / "README.md").read_text(encoding="utf-8")
    code = list_snippets(page)
    found = run_elsewhere(
        done.folder, see(home, done.record), code["How to run it"] + code["Calibration"]
    )
    applied = home.evaluation(run)
    expected = np.mean([np.load(applied / f"{fold}.npy") for fold in range(2)], axis=0)
    assert np.abs(found["probabilities"] - expected).max() <= 1e-4
    assert np.ptp(expected) > 0.01, "a model that says one thing of all images proves nothing"
    assert done.record["parity"]["largest_difference"] <= 1e-4
    assert done.record["parity"]["images"] == 16
    temperature = done.record["calibration"]["temperature"]
    assert ("calibrated" in found) == (temperature != 1)
    if temperature != 1:
        calibrated = apply_temperature(found["probabilities"].astype(np.float64), temperature)
        np.testing.assert_allclose(found["calibrated"], calibrated, atol=1e-12)


def test_one_fold_s_model_gives_what_it_gave_in_its_run(home: Workspace, tmp_path: Path) -> None:
    done = ship(home, "pixels", tmp_path / "model", fold=1)
    assert done.record["folds"] == [1]
    run = runtimes.FORMS["onnx"].open(tmp_path / "model" / "model.onnx", 1)
    trained = pd.read_parquet(home.run("pixels") / "predictions.parquet")
    tested = trained["fold"] == 1
    images = trained.loc[tested, "image"].to_numpy()
    np.testing.assert_allclose(
        run(see(home, done.record)[images]), trained.loc[tested, ["p:yak", "p:zebra"]], atol=1e-4
    )


def test_a_class_without_images_in_training_has_the_probability_0() -> None:
    random = np.random.default_rng(0)
    head = LinearHead(random.normal(size=(3, 5)), np.array([1.0, -np.inf, -1.0]), 1.0, {}, ())
    features = random.normal(size=(20, 5)).astype(np.float32)
    found = np.asarray(joining._make_layer(head)(features))
    np.testing.assert_allclose(found, head.predict_proba(features), atol=1e-6)
    assert not found[:, 1].any()


# ---- What differs is not kept --------------------------------------------------------------------


def test_a_model_that_differs_from_the_run_s_is_not_left(
    home: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_LIE", "0.0002")
    with pytest.raises(TrainingError, match=r"by 0.0002 in a probability on 16 images"):
        ship(home, "network", tmp_path / "out" / "model", "savedmodel")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values + 0.9e-4, None),
        (lambda values: values + 1.1e-4, r"by 0.00011 .* and 0.0001 is allowed"),
        (lambda values: values * np.nan, "by nan"),
        (lambda values: values[:, :1], "by nan"),
        (lambda values: values[1:], "by nan"),
        (lambda values: 1 / 0, "does not run: division by zero"),
    ],
)
def test_the_least_that_is_too_much(
    change: Any, message: str | None, home: Workspace, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    expected = np.array([[0.25, 0.75]] * 16)
    run = iter([expected[:10], expected[10:]])
    form = runtimes.Form("x", "x", {}, lambda path, threads: lambda batch: change(next(run)))
    monkeypatch.setattr(runtimes.Form, "write", lambda self, network, folder: folder)
    monkeypatch.setitem(runtimes.FORMS, "x", form)
    monkeypatch.setattr(joining, "_join", lambda *arguments: None)
    monkeypatch.setattr(joining, "_BATCH", 10)
    write_json(tmp_path / joining.ORDER, {"form": "x", "content": str(tmp_path)})
    model = SimpleNamespace(predict_proba=lambda images: expected, view={}, network=None)
    images = ImageSet.open(home.set("set")).images()
    with nullcontext() if message is None else pytest.raises(TrainingError, match=message):
        joining.write_joined(tmp_path, None, [model], None, images, 1)
    assert (tmp_path / joining.ANSWER).exists() == (message is None)


@pytest.mark.parametrize(
    ("run", "lacks"),
    [
        ("centroid", "its model has no 'network' and no 'view'"),
        ("features", "its trainer has no 'feature_network'"),
    ],
)
def test_a_trainer_without_a_network_is_refused_by_what_it_lacks(
    run: str, lacks: str, home: Workspace, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=lacks):
        ship(home, run, tmp_path / "out" / "model")
    assert list((tmp_path / "out").iterdir()) == []


def test_folds_that_see_different_views_are_not_joined() -> None:
    models = [SimpleNamespace(network=None, view={"size": size}) for size in (8, 16)]
    with pytest.raises(TrainingError, match="different views; export one with --fold"):
        joining._find_view(None, models, None)


# ---- The folder ----------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Export without a child; the work folders of the exports are listed."""
    works: list[Path] = []

    def answer(order: Any, work: Path, images: Any, progress: Any) -> None:
        works.append(work)
        (work / "content" / "model.onnx").write_bytes(images.tobytes())
        view = {"window": "full", "channels": 1, "size": 16, "scale": [0.0, 1.0]}
        write_json(work / "answer.json", {"view": view, "shape": [16, 16, 1], "difference": 1e-7})

    monkeypatch.setattr(export, "_run_child", answer)
    return works


def read_all(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_what_stands_beside_the_model_is_all_one_needs(
    home: Workspace, tmp_path: Path, quick: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "IMAGES", 7)
    done = ship(home, "network", tmp_path / "model")
    content = read_all(tmp_path / "model")
    assert set(content) == {"model.onnx", "model.json", "README.md", "SHA256SUMS"}
    record = json.loads(content["model.json"])
    assert record == done.record
    assert record["classes"] == ["yak", "zebra"]
    assert record["input"] == {"name": "pixels", "shape": ["n", 16, 16, 1], "dtype": "float32"}
    assert record["output"]["shape"] == ["n", 2]
    assert record["recipe"]["size"] == [32, 32]
    assert (record["folds"], record["parity"]["images"]) == ([0, 1], 7)
    chosen = np.frombuffer(content["model.onnx"], np.int64)
    assert len(set(chosen.tolist())) == 7
    assert set(chosen.tolist()) <= set(range(16))
    sums = {
        name: hashlib.sha256(data).hexdigest()
        for name, data in content.items()
        if name not in ("SHA256SUMS", "model.json")
    }
    assert record["files"] == {"model.onnx": sums["model.onnx"]}
    listed = dict(line.split("  ")[::-1] for line in content["SHA256SUMS"].decode().splitlines())
    assert listed == sums
    assert str(tmp_path).encode() not in b"".join(content.values())


def test_what_is_there_is_known_again_and_nothing_is_lost(
    home: Workspace, tmp_path: Path, quick: list[Path]
) -> None:
    folder = tmp_path / "out" / "model"
    (folder.parent / ".model.part" / "content").mkdir(parents=True)
    (folder.parent / ".model.part" / "content" / "half").write_text("left by a kill")
    assert ship(home, "network", folder).built
    assert "half" not in read_all(folder)
    content = read_all(folder)
    again = ship(home, "network", folder)
    assert (again.built, again.record, len(quick)) == (False, json.loads(content["model.json"]), 1)
    with pytest.raises(UsageError, match=r"differs in folds, models; .*--replace"):
        ship(home, "network", folder, fold=0)
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"mine.txt'.*would be lost"):
        ship(home, "network", folder, fold=0, replace=True)
    (folder / "mine.txt").unlink()
    assert read_all(folder) == content
    assert ship(home, "network", folder, fold=0, replace=True).record["folds"] == [0]
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_the_verb_prints_the_figure(home: Workspace, tmp_path: Path, quick: list[Path]) -> None:
    command = ["model", "network", "-o", str(tmp_path / "out"), "-w", str(home.root)]
    shown = CliRunner().invoke(verb.app, [*command, "--format", "onnx"], catch_exceptions=False)
    assert "on 16 images of the run it differs by 1.0e-07 at most; 0.0001" in shown.stdout
    told = CliRunner().invoke(verb.app, [*command, "--format", "onnx", "--json"])
    assert json.loads(told.stdout)["model"]["folds"] == [0, 1]


def test_bad_requests_say_what_would_work(home: Workspace, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no form 'keras'; use savedmodel, onnx, litert"):
        ship(home, "network", tmp_path / "out", "keras")
    with pytest.raises(UsageError, match="has no fold 2; its folds are 0 to 1"):
        ship(home, "network", tmp_path / "out", fold=2)
    with pytest.raises(UsageError, match="no run 'nought'"):
        ship(home, "nought", tmp_path / "out")
    with pytest.raises(UsageError, match="lies among the runs"):
        ship(home, "network", home.run("network") / "fold-0")
    at = ["-w", str(home.root)]
    run_here(["normalise", "set", "--size", "16", "--replace", "--workers", "0", *at])
    with pytest.raises(UsageError, match="is not the one that the run 'network' was trained on"):
        ship(home, "network", tmp_path / "out")


@pytest.mark.parametrize(
    ("form", "module", "package"),
    [
        ("savedmodel", "tensorflow", "tensorflow"),
        ("onnx", "tf2onnx", "medkit[onnx]"),
        ("onnx", "onnxruntime", "medkit[onnx]"),
        ("litert", "ai_edge_litert", "medkit[litert]"),
    ],
)
def test_a_missing_package_is_named_with_what_installs_it(
    form: str, module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtimes, "find_spec", lambda name: None if name == module else True)
    with pytest.raises(UsageError, match=re.escape(f"pip install '{package}'")):
        runtimes.find_form(form)


@pytest.mark.parametrize(
    ("value", "shown"),
    [("/home/me/w.h5", "w.h5"), ("~/w.h5", "w.h5"), ("40/400", "40/400"), (0.5, 0.5)],
)
def test_no_place_of_this_machine_goes_out(value: Any, shown: Any) -> None:
    assert export._hide_place(value) == shown


# ---- Models that are not what was sealed ---------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["model/weights.npz", "model/network.json", "trainer.json", "model/added.keras"]
)
def test_nothing_of_a_fold_that_was_tampered_with_is_loaded(
    name: str, home: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "follow_child", None)
    monkeypatch.setattr(application, "follow_child", None)
    path = home.run("network") / "fold-1" / name
    crafted = {"module": "builtins", "class_name": "Lambda", "config": {"function": "exec"}}
    path.write_text(json.dumps(crafted))
    damaged = re.escape(f"fold-1 is damaged: {name} changed")
    with pytest.raises(TrainingError, match=damaged):
        ship(home, "network", tmp_path / "out")
    with pytest.raises(TrainingError, match=damaged):
        prediction.predict(home, "network", "set", threads=1, device="cpu")
    assert not (tmp_path / "out").exists()


def test_a_link_in_place_of_weights_is_not_followed(home: Workspace, tmp_path: Path) -> None:
    path = home.run("network") / "fold-0" / "model" / "weights.npz"
    path.rename(tmp_path / "elsewhere.npz")
    path.symlink_to(tmp_path / "elsewhere.npz")
    with pytest.raises(TrainingError, match=r"'weights.npz' is a link"):
        ship(home, "network", tmp_path / "out")


def test_a_crafted_origin_under_a_new_seal_stops_before_the_model_is_read(
    home: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOADED", str(tmp_path / "loaded"))
    fold = fold_folder(home.run("network"), 0)
    origin = read_json(fold / "trainer.json")
    write_json(fold / "trainer.json", origin | {"feature_spec": {"layer": "Lambda"}})
    seal_fold(fold)
    with pytest.raises(TrainingError, match="trained on features"):
        ship(home, "network", tmp_path / "out")
    assert not (tmp_path / "loaded").exists()


# ---- The pages -----------------------------------------------------------------------------------


def test_names_of_classes_stay_text_on_the_page(
    home: Workspace, tmp_path: Path, quick: list[Path]
) -> None:
    record = dict(ship(home, "network", tmp_path / "model").record)
    hostile = 'a"\n## How to run it\n\n    import os\x1b[31m`{window}`<script>'
    page = documents.write_readme(record | {"classes": [hostile, "b"]})
    assert page.count("\n## ") == 5
    (line,) = [line for line in page.splitlines() if "script" in line]
    assert line.startswith('    "a')
    assert "\x1b" not in page


def test_the_page_makes_the_pixels_that_the_model_was_compared_on(
    home: Workspace, tmp_path: Path, quick: list[Path]
) -> None:
    done = ship(home, "network", tmp_path / "model")
    code = list_snippets((done.folder / "README.md").read_text(encoding="utf-8"))["What it takes"]
    names: dict[str, Any] = {}
    exec(code.replace("WORKSPACE/sets/NAME", str(home.set("set"))), names)
    np.testing.assert_array_equal(names["pixels"], see(home, done.record))


def test_the_document_has_the_same_snippets() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert documents.PIXELS.format(view="**VIEW") in text
    for snippet in documents.SNIPPETS.values():
        assert snippet.format(shape=(1, 64, 64, 1)) in text
    assert documents.CALIBRATE.format(least=SMALLEST_PROBABILITY, temperature=1.37) in text
    labels = documents.CALIBRATE_LABELS
    assert labels.format(least=SMALLEST_PROBABILITY, temperature=[1.37, 0.92]) in text
