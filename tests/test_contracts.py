"""Contracts of plugins: the newest host with the oldest plugins, and one release of overlap."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faketrainer import install

from medkit.errors import PluginError
from medkit.plugins import KINDS, contracts, entries, find_plugin, list_plugins, load_plugin
from medkit.plugins.entries import Kind

OLDEST = Path(__file__).parent / "contracts" / "v1"
POINTS = {
    "medkit.trainers.v1": "frozen_trainer",
    "medkit.sources.v1": "frozen_source",
    "medkit.readers.v1": "frozen_reader",
    "medkit.metrics.v1": "frozen_metrics",
    "medkit.sections.v1": "frozen_section",
}
# A file here that is edited no longer stands for the plugins that are out there.
FROZEN = {
    "frozen_catalogs/frozen-set.toml": "c4621aa220e08c6f",
    "frozen_metrics.py": "d0feb7a6d7389b9a",
    "frozen_reader.py": "6da2127be263fa29",
    "frozen_section.py": "7337fba8685e481c",
    "frozen_source.py": "5f3eaa4d4c926df5",
    "frozen_trainer.py": "2697d7363ea68bc8",
}


@pytest.fixture
def oldest(tmp_path: Path) -> Path:
    """A place of modules with the frozen plugins, as pip leaves them."""
    site = tmp_path / "site"
    shutil.copytree(OLDEST, site, ignore=shutil.ignore_patterns("__pycache__"))
    about = site / "frozen-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: frozen\nVersion: 1.0\n")
    lines = [
        f"[{group}]\n{module.replace('_', '-')} = {module}\n" for group, module in POINTS.items()
    ]
    (about / "entry_points.txt").write_text("".join(lines))
    return site


def write_pictures(folder: Path, persons: int = 24) -> None:
    """Write pictures in a file of the frozen format, stripes along or across."""
    random = np.random.default_rng(0)
    content = b"FROZEN1\n"
    for person in range(persons):
        label = person % 2
        stripes = 60 * (np.arange(24) // 3 % 2)[:, None] + np.zeros((24, 24))
        pixels = (stripes.T if label else stripes) + random.integers(0, 60, (24, 24))
        content += bytes([label, 24, 24]) + pixels.astype(np.uint8).tobytes()
    folder.mkdir()
    (folder / "pictures.bin").write_bytes(content)


def test_the_frozen_plugins_are_as_they_were() -> None:
    found = {
        path.relative_to(OLDEST).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for path in sorted(OLDEST.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert found == FROZEN


def test_the_newest_host_does_all_with_the_oldest_plugins(
    oldest: Path, tmp_path: Path, run_cli: Any, call_cli: Any
) -> None:
    write_pictures(tmp_path / "files")
    given = {"PYTHONPATH": str(oldest), "FROZEN": str(tmp_path / "files")}

    def run(*arguments: str, call: Any = call_cli) -> str:
        done = call(*arguments, "-w", tmp_path / "home", **given)
        assert done.exit_code == 0, done.stderr
        return str(done.stdout)

    run("fetch", "--plugin", "frozen-source", "frozen-set", "--yes")
    run("catalog", "--reader", "frozen-reader", "--workers", "1")
    run("label", "way", "--regex", r"!class(\d)/")
    run("normalise", "set", "--size", "24", "--workers", "1")
    train = ["train", "set", "--label", "way", "--plugin", "frozen-trainer", "--folds", "3"]
    named = ["--metrics", "frozen-metrics", "--name", "run", "--json", "--no-saliency"]
    (done,) = json.loads(run(*train, *named, call=run_cli))["runs"]
    assert done["metrics"]["images"] == done["metrics"]["persons"] == 24
    entry, own = (done["metrics"]["metrics"][name] for name in ("frozen_accuracy", "accuracy"))
    assert entry == pytest.approx(own) and entry["value"] > 0.9
    assert done["metrics"]["looks"][0]["number"] == 1
    run("report", "run", "--section", "frozen-section", "--no-saliency")
    html = (tmp_path / "home" / "runs" / "run" / "report.html").read_text(encoding="utf-8")
    assert "Frozen section" in html and "a circle" in html and "Share that is right" in html
    assert "Images by class" in html and "could not be written" not in html


# ---- A made-up second version, whose trainers fit in a method of another name --------------------

OLD = """
import medkit

class Old:
    Params, tasks, fit, load = dict, frozenset(), "fitted by fit", None

@medkit.hookimpl
def medkit_trainer():
    return Old
"""
NEW = OLD.replace("fitted by fit", "is the new one")


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = ("medkit.trainers.v2", "medkit.trainers.v1")
    monkeypatch.setitem(KINDS, "trainer", Kind(groups, "medkit_trainer"))
    monkeypatch.setitem(entries._KIND_OF, "medkit.trainers", "trainer")

    def rename(old: Any) -> Any:
        return type("Lifted", (old,), {"train": old.fit, "lifted": True})

    monkeypatch.setitem(contracts.ADAPTERS, "medkit.trainers.v1", rename)


def install_for(site: Path, name: str, code: str, *groups: str) -> None:
    install(site, name, code)
    lines = "".join(f"[{group}]\n{name} = {name}\n" for group in groups)
    (site / f"{name}-1.2.3.dist-info" / "entry_points.txt").write_text(lines)


def test_every_older_contract_has_an_adapter() -> None:
    assert {group for kind in KINDS.values() for group in kind.groups[1:]} == set(
        contracts.ADAPTERS
    )
    for kind in KINDS.values():
        versions = [int(group.rpartition(".v")[2]) for group in kind.groups]
        assert versions == sorted(versions, reverse=True)


def test_a_second_host_lifts_a_first_plugin(
    second: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_for(tmp_path, "older", OLD, "medkit.trainers.v1")
    install_for(tmp_path, "newer", NEW, "medkit.trainers.v2")
    monkeypatch.syspath_prepend(tmp_path)
    listed = {one.name: (one.contract, one.trouble) for one in list_plugins("trainer")}
    assert (listed["older"], listed["newer"]) == ((1, ""), (2, ""))
    assert load_plugin("trainer", "older").train == "fitted by fit"
    assert not hasattr(load_plugin("trainer", "newer"), "lifted")


def test_of_a_plugin_that_keeps_both_the_newer_counts(
    second: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_for(tmp_path, "both", NEW, "medkit.trainers.v1", "medkit.trainers.v2")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_plugin("trainer", "both").contract == 2
    assert not hasattr(load_plugin("trainer", "both"), "lifted")
    monkeypatch.setitem(KINDS, "trainer", Kind(("medkit.trainers.v1",), "medkit_trainer"))
    assert find_plugin("trainer", "both").contract == 1  # the host before


@pytest.mark.parametrize(
    ("group", "words"),
    [
        ("medkit.trainers.v3", "needs a newer medkit"),
        ("medkit.trainers.v0", "is for an older medkit: upgrade the plugin"),
    ],
)
def test_one_beyond_the_overlap_is_named_and_not_loaded(
    group: str, words: str, second: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_for(tmp_path, "beyond", "raise SystemError\n", group)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PluginError, match=f"'beyond'.*{words}"):
        load_plugin("trainer", "beyond")


def test_a_plugin_that_does_not_keep_its_own_contract_is_named(
    second: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_for(tmp_path, "loose", OLD.replace("return Old", "return 3"), "medkit.trainers.v1")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        PluginError, match=r"'loose' .* does not keep the contract medkit\.trainers"
    ):
        load_plugin("trainer", "loose")
