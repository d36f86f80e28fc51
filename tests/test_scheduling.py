"""Which child fits which fold: one after another or at once, and what a death costs."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from faketrainer import CENTROID, install, make_workspace

from medkit.engine import silent
from medkit.errors import TrainingError
from medkit.training import environment as environments
from medkit.training import run as training
from medkit.training.child import Event
from medkit.training.course import Course, wait
from medkit.training.environment import Environment, Gpu
from medkit.training.scheduling import compute_features, fit_folds
from medkit.workspace import Workspace, read_json


@dataclass
class Script:
    """A child that says what it was told to say."""

    folds: Sequence[int]
    says: list[Event]
    log: Path
    ended: str = ""
    stopped: list[str] = field(default_factory=list)
    wait: threading.Event | None = None

    def events(self) -> Iterator[Event]:
        yield from self.says
        if self.wait is not None:
            self.wait.wait(30)

    def close(self) -> str:
        return self.ended

    def ask_to_stop(self) -> None:
        self.stopped.append("asked")
        if self.wait is not None:
            self.wait.set()

    def kill(self, grace: float = 0.0) -> None:
        self.stopped.append("killed")


HERE = Environment("cpu", 1, "none")
OPENED: Event = {"event": "opened", "fold": None, "weights": None, "features": None}


@dataclass
class Stage:
    """A place where each fold has its fate: 'done', 'dies', 'lost' or 'never' (begins)."""

    fates: dict[int, list[str]]
    folder: Path
    apart: bool = True
    room: int = 1
    engine: str = "local"
    environment: Environment = HERE
    started: list[tuple[int, ...]] = field(default_factory=list)
    inside: list[Script] = field(default_factory=list)
    most: int = 0
    lost: list[Script] = field(default_factory=list)

    def choose(self, device: str, threads: int | None, backend: str | None) -> Environment:
        return self.environment

    def start(self, run: Path, steps: Sequence[int], folder: Path) -> Script | None:
        if len(self.inside) == self.room:
            return None
        self.started.append(tuple(steps))
        work = Script(list(steps), [OPENED], folder / "log.txt")
        for fold in steps if self.fates else ():
            fate = self.fates[fold].pop(0)
            if fate == "never":
                work.ended = "it died at once"
                work.says = []
                break
            work.says.append({"event": "started", "fold": fold})
            if fate != "done":
                work.ended = f"it {fate}"
                self.lost += [work] if fate == "lost" else []
                break
            work.says.append({"event": "finished", "fold": fold})
        self.inside.append(work)
        self.most = max(self.most, len(self.inside))
        return work

    def leave(self, work: Any) -> bool:
        self.inside.remove(work)
        return any(work is one for one in self.lost)


def follow(tmp_path: Path, fates: dict[int, list[str]], **changes: Any) -> tuple[Stage, Course]:
    stage = Stage(fates, tmp_path, **changes)
    course = Course(tmp_path, {"folds": [wait(fold) for fold in fates]}, silent)
    course.finish = lambda fold, seconds=None: course._settle(fold, "done", "", 0.0)  # type: ignore[method-assign]
    fit_folds(course, stage)
    return stage, course


def tell(course: Course) -> list[tuple[str, str | None]]:
    return [(fold["status"], fold["error"]) for fold in course.record["folds"]]


def test_one_child_takes_all_folds_and_the_next_goes_on_after_the_one_that_died(
    tmp_path: Path,
) -> None:
    fates = {0: ["done"], 1: ["dies"], 2: ["done"], 3: ["done"]}
    stage, course = follow(tmp_path, fates, apart=False)
    assert stage.started == [(0, 1, 2, 3), (2, 3)]
    assert tell(course) == [("done", None), ("failed", "it dies"), *[("done", None)] * 2]


@pytest.mark.parametrize("room", [1, 2, 3])
def test_every_fold_is_fitted_once_however_much_room_there_is(tmp_path: Path, room: int) -> None:
    stage, course = follow(tmp_path, {fold: ["done"] for fold in range(7)}, room=room)
    assert sorted(stage.started) == [(fold,) for fold in range(7)]
    assert stage.most == room
    assert {status for status, _ in tell(course)} == {"done"}


def test_no_second_child_starts_before_the_first_has_its_features(tmp_path: Path) -> None:
    gate = threading.Event()
    stage = Stage({0: ["done"], 1: ["done"]}, tmp_path, room=2)
    start = stage.start

    def slow(run: Path, steps: Sequence[int], folder: Path) -> Script | None:
        work = start(run, steps, folder)
        if work is not None and len(stage.started) == 1:
            said = work.events

            def late() -> Iterator[Event]:
                gate.wait(30)
                yield from said()

            work.events = late  # type: ignore[method-assign]
            threading.Timer(0.7, gate.set).start()
        elif work is not None:
            assert gate.is_set()
        return work

    stage.start = slow  # type: ignore[method-assign]
    course = Course(tmp_path, {"folds": [wait(0), wait(1)]}, silent)
    course.finish = lambda fold, seconds=None: course._settle(fold, "done", "", 0.0)  # type: ignore[method-assign]
    fit_folds(course, stage)
    assert len(stage.started) == 2


def test_a_fold_whose_machine_was_lost_is_tried_once_more(tmp_path: Path) -> None:
    fates = {0: ["lost", "done"], 1: ["lost", "lost"], 2: ["done"]}
    stage, course = follow(tmp_path, fates)
    assert stage.started == [(0,), (0,), (1,), (1,), (2,)]
    assert tell(course) == [("done", None), ("failed", "it lost"), ("done", None)]


def test_a_child_that_comes_to_no_fold_ends_the_run_and_stops_the_others(tmp_path: Path) -> None:
    others: list[Script] = []
    stage = Stage({0: ["done"], 1: ["never"]}, tmp_path, room=2)
    start = stage.start

    def keep(run: Path, steps: Sequence[int], folder: Path) -> Script | None:
        work = start(run, steps, folder)
        if work is not None and tuple(steps) == (0,):
            work.wait, work.says = threading.Event(), work.says[:2]
            others.append(work)
        return work

    stage.start = keep  # type: ignore[method-assign]
    course = Course(tmp_path, {"folds": [wait(0), wait(1)]}, silent)
    with pytest.raises(TrainingError, match=r"it died at once; more is in .*log\.txt"):
        fit_folds(course, stage)
    assert others[0].stopped == ["asked", "killed"]


def test_features_that_fail_end_the_run(tmp_path: Path) -> None:
    stage = Stage({}, tmp_path)
    course = Course(tmp_path, {"folds": []}, silent)
    compute_features(course, stage, 16)
    assert stage.started == [()]
    start = stage.start

    def fail(run: Path, steps: Sequence[int], folder: Path) -> Script | None:
        work = start(run, steps, folder)
        if work is not None:
            work.says = [{"event": "failed", "fold": None, "error": "no weights"}]
        return work

    stage.start = fail  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match="no weights; more is in"):
        compute_features(course, stage, 16)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A workspace, in a process that sees a made-up trainer."""
    site = tmp_path_factory.mktemp("site")
    install(site, "fake-centroid", CENTROID, names=("centroid",))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        yield make_workspace(tmp_path_factory.mktemp("prepared"))


def train(home: Path, folder: Path, events: list[Event], **changes: Any) -> training.Finished:
    shutil.copytree(home, folder)
    arguments = {"label": "animal", "folds": 4, "threads": 1, "name": "run", **changes}
    return training.train(Workspace(folder), "set", "centroid", watch=events.append, **arguments)


def test_a_fold_a_gpu_gives_what_one_after_another_gives(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_child, apart, at_once = [], [], list[Event]()
    serial = train(home, tmp_path / "serial", one_child, device="cpu")
    alone = train(home, tmp_path / "alone", apart, device="cpu", child_per_fold=True)
    cards = [Gpu("0", "Made Up"), Gpu("1", "Made Up")]
    monkeypatch.setattr(environments, "_list_gpus", lambda: cards)
    monkeypatch.setattr(environments, "look_for_gpus", lambda backend: (["Made Up"], ""))
    monkeypatch.setenv("FAKE_FAULT", "meet:0")  # fold 0 waits until fold 1 has begun
    both = train(home, tmp_path / "both", at_once)

    for other in (alone, both):
        for name in ("predictions.parquet", "metrics.json"):
            assert (other.folder / name).read_bytes() == (serial.folder / name).read_bytes()
    assert count_most(one_child) == count_most(apart) == 1
    assert count_most(at_once) == 2
    assert (both.record["device"], both.record["cards"]) == ("gpu", ["Made Up", "Made Up"])
    log = (both.folder / "log.txt").read_text()
    assert {line for line in log.splitlines() if line.startswith("sees ")} == {
        *("sees 0 gpu:0", "sees 1 gpu:0"),
    }
    assert log.count("noise on standard output") == 4
    assert not list(both.folder.glob("fold-*/log.txt"))
    assert [event["where"] for event in at_once if event["event"] == "begun"] == ["2 x Made Up"]


def count_most(events: Sequence[Event]) -> int:
    """Return how many folds were fitted at the same time, at most."""
    now, most = 0, 0
    for event in events:
        now += {"started": 1, "settled": -1}.get(event["event"], 0)
        most = max(most, now)
    return most


def test_what_a_fit_tells_is_heard_with_its_fold(home: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    train(home, tmp_path / "home", events, device="cpu", folds=2)
    facts: dict[int, dict[str, float]] = {0: {}, 1: {}}
    epochs: dict[int, list[float]] = {0: [], 1: []}
    for event in events:
        if event["event"] == "status":
            facts[event["fold"]] |= event["facts"]
            if "validation_loss" in event["facts"]:
                epochs[event["fold"]].append(event["facts"]["validation_loss"])
    assert epochs == {0: [2, 1, 2 / 3], 1: [2, 1, 2 / 3]}
    assert all(
        (told["epoch"], told["epochs"], told["loss"], told["batch_size"]) == (2, 3, 1 / 3, 8)
        for told in facts.values()
    )
    assert read_json(tmp_path / "home" / "runs" / "run" / "run.json")["cards"] == []
