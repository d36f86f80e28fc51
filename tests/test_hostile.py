"""The hostile archives are refused, each for its reason, and nothing is left or lies outside."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostile import CORPUS, SMALL, find_reason, read_tree

from medkit.errors import SourceError
from medkit.sources.fetching import fetch, list_sources
from medkit.sources.targets import plan_target
from medkit.sources.unpacking import iterate_members, unpack
from medkit.workspace import Workspace


@pytest.mark.parametrize("case", CORPUS)
def test_a_hostile_archive_is_refused_and_nothing_is_left(case: str, tmp_path: Path) -> None:
    house = tmp_path / "house"
    house.mkdir()
    path = CORPUS[case](tmp_path / "archive")
    with pytest.raises(SourceError, match=find_reason(case)) as caught:
        unpack(path, house / "deep" / "target", bounds=SMALL, nested=2)
    assert len(str(caught.value)) < 400
    assert "\x1b" not in str(caught.value)
    assert read_tree(tmp_path) == {"archive": path.read_bytes()}
    assert not (house / "deep" / "target").exists()


@pytest.mark.parametrize("case", [case for case in CORPUS if not case.startswith("nested")])
def test_a_hostile_archive_is_not_read_where_it_lies(case: str, tmp_path: Path) -> None:
    path = CORPUS[case](tmp_path / "archive")
    with pytest.raises(SourceError, match=find_reason(case)):
        for member in iterate_members(path, bounds=SMALL):
            with member.open() as stream:
                stream.read()


@pytest.mark.parametrize("case", ["zip-climbs", "tar-link-chain", "zip-bomb", "nested-slip"])
def test_a_hostile_archive_that_is_fetched_leaves_no_source(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unpack_little(*arguments: object, **options: object) -> int:
        return unpack(*arguments, bounds=SMALL, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("medkit.sources.transfer.unpack", unpack_little)
    path = CORPUS[case](tmp_path / "archive.bin")
    workspace = Workspace(tmp_path / "house" / "workspace")
    with pytest.raises(SourceError, match=find_reason(case)):
        fetch(plan_target(str(path), name="set"), workspace)
    assert list_sources(workspace) == []
    left = [name for name in read_tree(tmp_path) if not name.startswith("house/workspace/raw/.set")]
    assert left == ["archive.bin"]
    assert not [*workspace.raw.glob(".set.part/files/*")]


def test_the_corpus_has_at_least_thirty_kinds() -> None:
    assert len({find_reason(case) for case in CORPUS}) >= 30
