"""One pass over each image, whoever asks again; and ``medkit features``, as a user types it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faketrainer import FEATURES, install, make_workspace, run_here

from medkit.errors import UsageError
from medkit.training.featurestores import (
    FeatureStore,
    bound_features,
    choose_stores,
    list_stores,
    parse_size,
)
from medkit.workspace import Workspace, write_json

PERSONS = 12
IMAGES = 2 * PERSONS
# Whoever asks what decided passes the images again, covered.
TRAIN = ("train", "--folds", "5", "--threads", "1", "--device", "cpu", "--no-saliency", "--json")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    install(folder, "fake-pixels", FEATURES, names=("pixels",))
    install(folder, "fake-others", FEATURES, names=("others",))
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with three labels: of all persons, other ones of these, and of some."""
    folder = tmp_path_factory.mktemp("prepared")
    root = make_workspace(folder, persons=PERSONS)
    for name, persons, halve in (("other", PERSONS, 2), ("few", PERSONS - 2, 1)):
        rows = (f"P{person:03d},{person // halve % 2}\n" for person in range(persons))
        (folder / f"{name}.csv").write_text("PatientID,label\n" + "".join(rows))
        run_here(["label", name, "--csv", str(folder / f"{name}.csv"), "-w", str(root)])
    return root


@pytest.fixture(scope="module")
def cli(site: Path, root: Path, call_cli: Callable[..., Any]) -> Callable[..., Any]:
    def run(*arguments: object, **environment: str) -> Any:
        found = os.pathsep.join([str(site), *sys.path])
        options = {"PYTHONPATH": found, "COUNTED": str(site / "counted"), **environment}
        done = call_cli(*arguments, "-w", str(root), **options)
        assert done.exit_code == 0, done.stderr
        return done

    return run


@pytest.fixture(scope="module")
def count_passes(cli: Callable[..., Any], site: Path) -> Callable[..., int]:
    """Train, and say over how many images the trainer has gone meanwhile."""

    def count(*arguments: str, label: str = "animal", plugin: str = "pixels", **more: str) -> int:
        counted, images = site / "counted", "set"
        counted.write_text("")
        if arguments and not arguments[0].startswith("-"):
            images, arguments = arguments[0], arguments[1:]
        cli(*TRAIN, images, "--label", label, "--plugin", plugin, *arguments, **more)
        return sum(map(int, counted.read_text().split()))

    return count


def test_no_image_is_passed_twice(
    count_passes: Callable[..., int], root: Path, cli: Callable[..., Any]
) -> None:
    assert count_passes(label="few") == IMAGES - 4  # five folds, and one pass over each image
    assert count_passes(label="animal") == 4  # a cohort that holds the one before
    assert count_passes(label="other") == 0
    assert len(list_stores(Workspace(root).features)) == 1
    assert count_passes("-p", "size=30") == IMAGES  # another view
    assert count_passes("--name", "second", FAKE_WEIGHTS="w2") == IMAGES
    assert count_passes("--name", "third", FAKE_WEIGHTS="w2", plugin="others") == IMAGES
    # Trainers that name the extractor and say the same of it share what it gives.
    assert count_passes("--name", "fourth", FAKE_EXTRACTOR="") == IMAGES
    assert count_passes("--name", "fifth", FAKE_EXTRACTOR="", plugin="others") == 0
    # A changed pixel.
    path = next((root.parent / "images").rglob("*.dcm"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    cli("catalog", root.parent / "images", "--workers", "0")
    cli("normalise", "changed", "--size", "32", "--workers", "0")
    assert count_passes("changed") == 1


def test_the_features_are_listed_and_pruned(
    count_passes: Callable[..., int], cli: Callable[..., Any], root: Path
) -> None:
    count_passes("--name", "listed", "-p", "size=28")
    folder = Workspace(root).features
    write_json(folder / "0ld.json", {"origin": {}, "shape": [3, 2], "sha256": "of before"})
    (folder / "0ld.npy").write_bytes(b"rows")
    listed = json.loads(cli("features", "list", "--json").stdout)["features"]
    first = next(store for store in listed if store["view"].get("size") == 28)
    assert first["images"] == IMAGES and first["trainer"] == "pixels 1.2.3"
    assert first["bytes"] == sum(path.stat().st_size for path in folder.glob(f"{first['key']}.*"))
    shown = cli("features", "list").stdout
    assert first["key"][:8] in shown and "of before" in shown

    before = sorted(folder.iterdir())
    cli("features", "prune", first["key"][:8], "--dry-run")
    assert sorted(folder.iterdir()) == before
    removed = json.loads(cli("features", "prune", first["key"][:8], "--json").stdout)["removed"]
    assert {store["key"] for store in removed} == {first["key"], "0ld"}
    assert not list(folder.glob("0ld.*"))
    assert "nothing is to be removed" in cli("features", "prune", "--older-than", "3").stdout
    assert count_passes("--name", "again", "-p", "size=28") == IMAGES

    cli("features", "prune", "--keep", "0")
    assert list(folder.iterdir()) == []
    assert json.loads(cli("features", "list", "--json").stdout) == {"features": []}


def test_what_a_run_uses_stays_and_the_rest_is_bounded(
    count_passes: Callable[..., int], root: Path
) -> None:
    home = Workspace(root)
    count_passes("--name", "old", "-p", "size=26")
    (old,) = list_stores(home.features)
    count_passes("--name", "new", "-p", "size=27", MEDKIT_FEATURES_BYTES="1kB")
    (new,) = list_stores(home.features)
    assert new.key != old.key and new.view["size"] == 27
    log = (home.run("new") / "log.txt").read_text()
    assert "removed" in log and "1kB of them may be kept (MEDKIT_FEATURES_BYTES)" in log


def store(key: str, size: int, used: float = 1e9, trainer: str = "t") -> FeatureStore:
    return FeatureStore(key, trainer, "", "", {}, 1, size, used)


@pytest.mark.parametrize(
    ("asked", "keys"),
    [
        ({}, {"old"}),
        ({"keep": 10}, {"old"}),
        ({"keep": 8}, {"b", "c", "old"}),  # c would fit, but b was used after it
        ({"keep": 0}, {"a", "b", "c", "old"}),
        ({"keys": ["b"]}, {"b", "old"}),
        ({"keys": ["b"], "keep": 8}, {"b", "old"}),
        ({"older_than": 7000}, {"b", "c", "old"}),
    ],
)
def test_what_is_chosen(asked: dict[str, Any], keys: set[str]) -> None:
    stores = [store("a", 4, 9e9), store("b", 5), store("old", 9, 8e8, ""), store("c", 1, 7e8)]
    assert {one.key for one in choose_stores(stores, **asked)} == keys


@pytest.mark.parametrize("key", ["c", "a", ""])
def test_a_key_that_names_none_or_several_is_refused(key: str) -> None:
    with pytest.raises(UsageError, match=r"key of features; there are: a1, a2"):
        choose_stores([store("a1", 1), store("a2", 1)], keys=[key])


def test_nothing_is_bounded_where_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old.npy").write_bytes(b"x" * 100)
    monkeypatch.setenv("MEDKIT_FEATURES_BYTES", "100 B")
    assert bound_features(tmp_path, "new") == ""
    monkeypatch.setenv("MEDKIT_FEATURES_BYTES", "99")
    assert "removed 100 B" in bound_features(tmp_path, "new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "size"),
    [("5GB", 5 * 10**9), ("1.5 TB", 15 * 10**11), ("2MiB", 2**21), ("20k", 20_000), ("7", 7)],
)
def test_a_size_is_read_as_a_person_means_it(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-5GB", "5PB", "1e9", "5 GB each", "٥GB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no size"):
        parse_size(text)
