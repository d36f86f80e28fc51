"""A set that is not, byte for byte, what was written is refused before anything is learned."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from faketrainer import CENTROID, install, make_workspace
from finished import Finished

import medkit
from medkit.errors import ImageSetError
from medkit.images.imageset import ImageSet
from medkit.images.soundness import check_set
from medkit.training import prediction
from medkit.training import run as training
from medkit.workspace import Workspace

Cli = Callable[..., Finished]
SHARD = "pixels.zarr/uint16x1/c/0/0/0"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def home(prepared: Path, tmp_path: Path) -> Workspace:
    shutil.copytree(prepared, tmp_path / "workspace")
    return Workspace(tmp_path / "workspace")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a trainer, which is found here and by the child processes of this one."""
    install(tmp_path / "site", "fake-centroid", CENTROID, names=("centroid",))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("COUNTED", str(tmp_path / "counted"))
    return tmp_path / "site"


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_a_sound_set_passes_file_by_file(home: Workspace) -> None:
    image_set = ImageSet.open(home.set("set"))
    told: list[tuple[int, int | None, str]] = []
    check_set(image_set, lambda *news: told.append(news))
    count = len(image_set.manifest["files"])
    assert told == [(n + 1, count, "files of the set checked") for n in range(count)]
    (home.set("set") / "notes.txt").write_text("a file too many changes nothing that is read")
    check_set(image_set)


def test_a_flipped_byte_in_an_image_is_named(home: Workspace) -> None:
    image_set = ImageSet.open(home.set("set"))
    flip(home.set("set") / SHARD, 100)
    message = rf"'set' is damaged.*: image \d+ in {SHARD}: .*'medkit verify set'"
    with pytest.raises(ImageSetError, match=message) as caught:
        check_set(image_set)
    assert "\n" not in str(caught.value)


def test_a_flipped_byte_anywhere_is_found(home: Workspace) -> None:
    folder = home.set("set")
    image_set = ImageSet.open(folder)
    for path in image_set.manifest["files"]:
        sound = (folder / path).read_bytes()
        for place in (0, len(sound) // 2, len(sound) - 1):
            flip(folder / path, place)
            with pytest.raises(ImageSetError, match=path):
                check_set(image_set)
            (folder / path).write_bytes(sound)
    check_set(image_set)


def test_a_file_that_is_gone_is_named(home: Workspace) -> None:
    image_set = ImageSet.open(home.set("set"))
    (home.set("set") / SHARD).unlink()
    with pytest.raises(ImageSetError, match=f"{SHARD}|image 0"):
        check_set(image_set)


def test_training_refuses_to_start(home: Workspace, site: Path, call_cli: Cli) -> None:
    def train() -> Finished:
        options = {"plugin": "centroid", "label": "animal", "folds": 2, "name": "run"}
        options |= {"device": "cpu", "threads": 1, "workspace": home.root}
        spelled = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        paths = os.pathsep.join([str(Path(medkit.__file__).parents[1]), str(site)])
        return call_cli("train", "set", "--no-saliency", *spelled, PYTHONPATH=paths)

    shard = home.set("set") / SHARD
    flip(shard, 100)
    refused = train()
    assert refused.exit_code == 1
    assert "image 0 in" in refused.stderr and "Traceback" not in refused.stderr
    assert not home.run("run").exists()
    flip(shard, 100)
    assert train().exit_code == 0
    # What is done is done: nothing is computed for it again.
    flip(shard, 100)
    assert train().exit_code == 0


def test_a_run_is_not_gone_on_with_nor_applied(
    home: Workspace, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train() -> training.Finished:
        return training.train(
            home, "set", "centroid", label="animal", folds=2, threads=1, device="cpu", name="run"
        )

    with monkeypatch.context() as patch:
        patch.setattr(training, "_conclude", stop)
        with pytest.raises(KeyboardInterrupt):
            train()
    shard = home.set("set") / SHARD
    flip(shard, 100)
    with pytest.raises(ImageSetError, match="nothing is computed from it"):
        train()
    flip(shard, 100)
    assert train().record["status"] == "done"
    flip(shard, 100)
    with pytest.raises(ImageSetError, match="nothing is computed from it"):
        prediction.predict(home, "run", "set", threads=1, device="cpu", name="applied")
    assert not home.evaluation("applied").exists()


def stop(*arguments: object) -> None:
    raise KeyboardInterrupt
