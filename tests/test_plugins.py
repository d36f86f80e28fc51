"""Plugins: listed from metadata alone, loaded one at a time, blamed by name and version."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from faketrainer import HOOK, install

from medkit.errors import PluginError, UsageError
from medkit.plugins import find_conflicts, find_plugin, list_plugins, load_trainer

LIGHT = """
class Trainer:
    Params = object
    tasks = frozenset({"multiclass"})

    def fit(self, train, validation, run): ...
    def load(self, folder): ...
""" + HOOK.format(trainer="Trainer")
BROKEN = "raise RuntimeError('no CUDA here')\n"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on ``sys.path`` for distributions made up by a test."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in [name for name in sys.modules if name.startswith("fake_")]:
        del sys.modules[name]


def test_listing_reads_metadata_and_imports_nothing(site: Path) -> None:
    install(site, "fake-light", LIGHT, names=("light",))
    install(site, "fake-broken", BROKEN, names=("broken",))
    listed = {entry.name: entry for entry in list_plugins("trainer")}
    assert listed["light"].distribution == "fake-light"
    assert listed["light"].version == "1.2.3"
    assert listed["light"].summary == "Made up."
    assert listed["broken"].origin == "fake-broken 1.2.3"
    assert not {"fake_light", "fake_broken"} & set(sys.modules)


def test_only_the_chosen_plugin_is_loaded_and_a_broken_one_breaks_nothing_else(site: Path) -> None:
    install(site, "fake-light", LIGHT, names=("light",))
    install(site, "fake-broken", BROKEN, names=("broken",))
    assert load_trainer("light").tasks == {"multiclass"}
    assert "fake_light" in sys.modules
    assert "fake_broken" not in sys.modules


def test_a_broken_plugin_is_named_with_its_version_and_its_error(site: Path) -> None:
    install(site, "fake-broken", BROKEN, names=("broken",))
    with pytest.raises(
        PluginError, match=r"'broken' \(fake-broken 1\.2\.3\).*RuntimeError: no CUDA here"
    ):
        load_trainer("broken")


def test_a_name_claimed_twice_names_both_before_anything_is_loaded(site: Path) -> None:
    install(site, "fake-light", LIGHT, names=("light",))
    install(site, "fake-rival", BROKEN, names=("light",), version="9")
    (conflict,) = [text for text in find_conflicts(list_plugins("trainer")) if "'light'" in text]
    assert "fake-light 1.2.3" in conflict
    assert "fake-rival 9" in conflict
    with pytest.raises(PluginError, match=r"fake-light 1\.2\.3 and fake-rival 9"):
        load_trainer("light")
    assert not {"fake_light", "fake_rival"} & set(sys.modules)


def test_one_distribution_may_claim_several_names(site: Path) -> None:
    install(site, "fake-light", LIGHT, names=("light", "lighter"))
    assert not [text for text in find_conflicts(list_plugins("trainer")) if "light" in text]
    assert load_trainer("lighter").tasks == {"multiclass"}


def test_a_distribution_seen_twice_is_one(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, "fake-light", LIGHT, names=("light",))
    install(site.parent / "editable", "fake_light", LIGHT, names=("light",), version="1.2.4")
    monkeypatch.syspath_prepend(str(site.parent / "editable"))
    assert find_plugin("trainer", "light").version == "1.2.4"


def test_a_misspelt_hook_is_found(site: Path) -> None:
    install(
        site, "fake-light", LIGHT.replace("def medkit_trainer", "def medkit_trainr"), names=("lt",)
    )
    with pytest.raises(PluginError, match=r"fake-light 1\.2\.3.*unknown hook 'medkit_trainr'"):
        load_trainer("lt")


def test_what_is_no_trainer_is_told_what_it_lacks(site: Path) -> None:
    install(site, "fake-light", "Trainer = int" + HOOK.format(trainer="Trainer"), names=("light",))
    with pytest.raises(PluginError, match="lacks Params, tasks, fit, load"):
        load_trainer("light")


def test_a_linear_trainer_needs_features_and_no_fit(site: Path) -> None:
    linear = LIGHT.replace(
        "def fit(self, train, validation, run)", "head = 'linear'\n    def x(self)"
    )
    install(site, "fake-light", linear, names=("light",))
    with pytest.raises(PluginError, match="lacks features, feature_spec"):
        load_trainer("light")


def test_a_module_without_the_hook_is_told_so(site: Path) -> None:
    install(site, "fake-light", "", names=("light",))
    with pytest.raises(PluginError, match=r"fake-light 1\.2\.3.*not a trainer"):
        load_trainer("light")


def test_an_unknown_name_is_answered_with_what_is_installed(site: Path) -> None:
    install(site, "fake-light", LIGHT, names=("light",))
    with pytest.raises(UsageError, match=r"no trainer plugin is named 'lite'; installed: .*light"):
        find_plugin("trainer", "lite")
