"""The host's linear head in a run: as many folds at a time as memory holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from faketrainer import FEATURES, install, make_workspace

from medkit.engine import map_items
from medkit.errors import TrainingError
from medkit.training import head
from medkit.training.run import Finished, train
from medkit.workspace import Workspace

# Two features of each of 16 images.
NEEDED = 28 * 2 * 16


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    folder = tmp_path_factory.mktemp("site")
    install(folder, "fake-pixels", FEATURES, names=("pixels",))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("COUNTED", str(folder / "counted"))
        yield Workspace(make_workspace(folder / "made"))


def solve(workspace: Workspace, name: str) -> Finished:
    with workspace.lock():
        return train(
            workspace, "set", "pixels", label="animal", folds=2, threads=2, device="cpu", name=name
        )


def test_memory_decides_how_many_folds_are_solved_at_a_time_and_not_what_comes_out(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, results = [], []

    def note(work, items, *, workers, **keywords):  # type: ignore[no-untyped-def]
        asked.append(workers)
        return map_items(work, items, workers=workers, **keywords)

    monkeypatch.setattr(head, "map_items", note)
    for name, memory in {"two": 2 * NEEDED, "one": 2 * NEEDED - 1, "unknown": None}.items():
        monkeypatch.setattr(head, "count_memory", lambda memory=memory: memory)
        folder: Path = solve(workspace, name).folder
        results.append((folder / "predictions.parquet").read_bytes())
    assert asked == [2, 1, 2]
    assert results.count(results[0]) == 3


def test_what_no_memory_holds_is_refused_with_what_would_work(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "count_memory", lambda: NEEDED - 1)
    with pytest.raises(TrainingError, match=r"a fold of 16 images with 2 features .* -p size"):
        solve(workspace, "none")
    monkeypatch.undo()
    assert solve(workspace, "none").record["status"] == "done"


def test_this_machine_says_how_much_memory_it_has() -> None:
    memory = head.count_memory()
    assert memory is None or memory > 2**28
