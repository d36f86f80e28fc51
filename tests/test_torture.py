"""The torture set: every case is divided rightly, or it is said that it is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from torture import Found, Truth, read_catalog
from torture_cases import CASES, build

from medkit.catalog.scan import Root, scan
from medkit.catalog.store import Catalog

GUESSED = "repeated-position"

Outcome = tuple[dict[str, Truth], dict[str, Found]]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The truth about the set, and what one scan of it says."""
    folder = tmp_path_factory.mktemp("torture")
    truth = build(folder / "set")
    scan(folder / "catalog", [Root("torture", folder / "set")], workers=0)
    return truth, read_catalog(Catalog.open(folder / "catalog"))


@pytest.mark.parametrize("name", CASES)
def test_each_case_is_divided_exactly(name: str, outcome: Outcome) -> None:
    truth, found = outcome[0][name], outcome[1][name]
    everything = {frame.key for frame in truth.frames}
    assert {key for volume in found.volumes for key in volume} | found.outside == everything
    assert found.aliases == {frame.path for frame in truth.aliases}
    if truth.told is not None:
        assert set(found.volumes) == set(truth.expect())
        assert found.outside == {frame.key for frame in truth.outside}


@pytest.mark.parametrize("name", CASES)
def test_the_checks_say_what_is_wrong_and_nothing_else(name: str, outcome: Outcome) -> None:
    truth, found = outcome[0][name], outcome[1][name]
    expected = {} if truth.told is None else truth.expect()
    for volume, checks in expected.items():
        assert {name: found.volumes[volume][name] for name in checks} == checks


@pytest.mark.parametrize("name", CASES)
def test_a_guess_is_said_to_be_one(name: str, outcome: Outcome) -> None:
    truth, found = outcome[0][name], outcome[1][name]
    guessed = truth.frames if not truth.told else truth.problems.get(GUESSED, [])
    assert found.problems.get(GUESSED, set()) == {frame.path for frame in guessed}


@pytest.mark.parametrize("name", CASES)
def test_problems_are_those_that_there_are(name: str, outcome: Outcome) -> None:
    truth, found = outcome[0][name], outcome[1][name]
    expected = {code: {each.path for each in frames} for code, frames in truth.problems.items()}
    assert {**found.problems, GUESSED: None} == {**expected, GUESSED: None}
    assert found.synthetic == truth.synthetic


@pytest.mark.parametrize("name", CASES)
def test_the_spacing_is_that_of_the_images(name: str, outcome: Outcome) -> None:
    truth, found = outcome[0][name], outcome[1][name]
    spacings = {tuple(row["PixelSpacing"]) for row in found.volumes.values()}
    assert spacings == {volume[0].spacing for volume in truth.volumes}


def test_equal_sets_are_equal_bytes(tmp_path: Path) -> None:
    once, again = ({**build(tmp_path / name)} for name in ("one", "two"))
    assert once == again
    for path in sorted((tmp_path / "one").rglob("*.dcm")):
        assert (
            path.read_bytes()
            == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()
        )
