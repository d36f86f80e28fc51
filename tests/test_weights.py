"""The store of pretrained weights: addressed by content, whole or absent, free of hostile files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faketrainer import run_here

from medkit.errors import TrainingError, UsageError, WorkspaceError
from medkit.training import weights as store
from medkit.training.weights import add_weights, find_published, find_stored, list_weights

h5py = pytest.importorskip("h5py", reason="h5py comes with Keras")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEDKIT_WEIGHTS", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Return a file of weights; those of another seed have another hash."""

    def write_file(name: str = "some.h5", seed: int = 0, legacy: bool = False) -> Path:
        with h5py.File(tmp_path / name, "w") as file:
            file["layers/dense/vars/0"] = np.random.default_rng(seed).random((3, 2))
            if legacy:
                file.attrs["layer_names"] = [b"dense"]
        return tmp_path / name

    return write_file


def list_files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".lock"}


def test_a_file_is_kept_under_its_hash_with_the_ending_that_tells_its_layout(
    write: Callable[..., Path], folder: Path
) -> None:
    for name, legacy, ending in (("one.h5", True, ".h5"), ("two.h5", False, ".weights.h5")):
        path = write(name, legacy=legacy)
        stored = add_weights(path)
        assert stored.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert stored.path == folder / (stored.sha256 + ending)
        assert stored.path.read_bytes() == path.read_bytes()
        assert (stored.name, stored.size) == (name, path.stat().st_size)
    assert [one.name for one in list_weights()] == ["one.h5", "two.h5"]
    assert len(list_files(folder)) == 4


def test_without_the_variable_it_lies_among_the_users_data(monkeypatch: pytest.MonkeyPatch) -> None:
    import platformdirs

    monkeypatch.delenv("MEDKIT_WEIGHTS")
    assert store.store_folder().parent == Path(platformdirs.user_data_dir("medkit", False))


def test_a_file_is_found_by_the_first_digits_of_its_hash(write: Callable[..., Path]) -> None:
    one, other = add_weights(write("a.h5", 1)), add_weights(write("b.h5", 2))
    assert find_stored(one.sha256[:8]) == find_stored(one.sha256.upper()) == one
    with pytest.raises(UsageError, match=rf"no weights have .*0{{10}} .*{other.sha256}"):
        find_stored("0" * 10)
    for short in (one.sha256[:7], "imagenet", "../secret", ""):
        with pytest.raises(UsageError, match="8 to 64 hexadecimal digits"):
            find_stored(short)


def test_digits_that_two_files_share_are_refused_with_both(write: Callable[..., Path]) -> None:
    stored = add_weights(write())
    rival = stored.path.with_name(stored.sha256[:60] + "0000.json")
    rival.write_bytes(stored.path.with_name(f"{stored.sha256}.json").read_bytes())
    with pytest.raises(UsageError, match=rf"more than one file .*{stored.sha256}"):
        find_stored(stored.sha256[:8])
    assert find_stored(stored.sha256) == stored


def test_an_empty_store_says_how_to_fill_it() -> None:
    assert list_weights() == []
    with pytest.raises(UsageError, match="medkit weights add"):
        find_stored("12345678")


def test_a_published_file_is_known_by_its_md5_whatever_it_is_called(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("renamed.h5")
    md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    known = replace(store.INCEPTION_IMAGENET, md5=md5)
    assert find_published(known) is None
    for name in ("imagenet", "none"):
        with pytest.raises(UsageError, match="--name"):
            add_weights(path, name)
    monkeypatch.setitem(store._PUBLISHED, md5, known)
    assert find_published(known) is None
    stored = add_weights(path, "mine")
    assert (stored.name, find_published(known)) == ("imagenet", stored)


def test_what_is_no_plain_weights_is_refused_and_leaves_nothing(
    write: Callable[..., Path], folder: Path, tmp_path: Path
) -> None:
    linked = write("linked.h5")
    with h5py.File(linked, "a") as file:
        file["layers/stolen"] = h5py.ExternalLink(str(write("secret.h5")), "/layers")
    for name, content in {"noise.h5": b"not HDF5", "model.keras": b"PK\3\4 zip"}.items():
        (tmp_path / name).write_bytes(content)
    for name in ("linked.h5", "noise.h5", "model.keras"):
        with pytest.raises(TrainingError):
            add_weights(tmp_path / name)
    with pytest.raises(UsageError, match="no such file"):
        add_weights(tmp_path / "missing.h5")
    assert list_files(folder) == set()
    assert list_weights() == []


def test_a_kill_leaves_nothing_that_counts_and_adding_again_mends_it(
    write: Callable[..., Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write()

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    for step in ("move_into_place", "write_json"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(store, step, die)
            add_weights(path)
        assert list_weights() == []
    (folder / ".adding.h5").write_bytes(b"half of a file")
    assert add_weights(path).is_sound()
    assert len(list_files(folder)) == 2


def test_a_changed_or_missing_file_is_found_and_can_be_added_again(
    write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write()
    stored, other = add_weights(path), add_weights(write("other.h5", 1))
    run_here(["weights", "verify"])
    content = bytearray(stored.path.read_bytes())
    content[-1] ^= 1
    for damage in (lambda: stored.path.write_bytes(content), stored.path.unlink):
        damage()
        assert not stored.is_sound()
        run_here(["weights", "verify", other.sha256[:8]])
        for arguments in ([], [stored.sha256[:8]]):
            capsys.readouterr()
            with pytest.raises(SystemExit):
                run_here(["weights", "verify", *arguments])
            assert stored.sha256 in capsys.readouterr().err
        assert add_weights(path, "again").is_sound()
    assert [one.name for one in list_weights()] == ["again", "other.h5"]


def test_a_damaged_description_is_named(write: Callable[..., Path]) -> None:
    stored = add_weights(write())
    about = stored.path.with_name(f"{stored.sha256}.json")
    for content in ('{"name": "x"}', "{", "[]"):
        about.write_text(content)
        with pytest.raises(WorkspaceError, match=f"{stored.sha256}.json is damaged"):
            list_weights()


def test_the_command_line_adds_and_lists(
    write: Callable[..., Path], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write("[red]odd.h5")
    run_here(["weights", "list"])
    assert "medkit weights add PATH" in " ".join(capsys.readouterr().out.split())
    run_here(["weights", "add", str(path)])
    told = capsys.readouterr().out
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert "[red]odd.h5" in told
    assert f"-p weights={digest}" in told
    run_here(["weights", "add", str(path), "--name", "mine", "--json"])
    assert json.loads(capsys.readouterr().out)["sha256"] == digest
    run_here(["weights", "list", "--json"])
    listed = json.loads(capsys.readouterr().out)
    assert listed["folder"] == str(folder)
    assert [one["name"] for one in listed["weights"]] == ["mine"]
