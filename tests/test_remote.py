"""Folds on Dask workers: the same result, a worker that is lost, and a host that is."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faketrainer import CENTROID, FEATURES, install, make_workspace

from medkit.training import remote, scheduling
from medkit.training import run as training
from medkit.training.child import Event
from medkit.training.remote import Errand, Order, run_errand
from medkit.workspace import Workspace, read_json

distributed = pytest.importorskip("distributed")

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills a process by a POSIX signal")

RESULTS = ("predictions.parquet", "metrics.json")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    site = tmp_path_factory.mktemp("site")
    install(site, "fake-centroid", CENTROID, names=("centroid",))
    install(site, "fake-pixels", FEATURES, names=("pixels",))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        patch.setenv("COUNTED", str(site / "counted"))
        patch.setenv("FAKE_FAULT", "orphan:1")
        yield make_workspace(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def cluster(prepared: Path) -> Iterator[Any]:
    """Two worker processes, which see the made-up trainers."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
    ) as cluster:
        yield cluster


@pytest.fixture
def home(prepared: Path, tmp_path: Path) -> Workspace:
    shutil.copytree(prepared, tmp_path / "workspace")
    return Workspace(tmp_path / "workspace")


def train(home: Workspace, plugin: str, name: str, **changes: Any) -> training.Finished:
    arguments = {"label": "animal", "folds": 3, "threads": 1, "device": "cpu", "name": name}
    return training.train(home, "set", plugin, **{**arguments, **changes})


def test_a_worker_that_is_lost_costs_time_and_the_result_is_that_of_one_machine(
    cluster: Any, home: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainer kills its worker once, in fold 1."""
    engine = cluster.scheduler_address.replace("tcp://", "dask://")
    events: list[Event] = []
    far = train(home, "centroid", "far", engine=engine, watch=events.append)
    assert (far.folder / "fold-1" / "orphaned").exists()
    assert [fold["status"] for fold in far.record["folds"]] == ["done"] * 3
    begun = [event["fold"] for event in events if event["event"] == "started"]
    assert sorted(begun) == [0, 1, 1, 2]
    assert not [*far.folder.glob("fold-*/lease"), *far.folder.glob("fold-*/events.jsonl")]
    assert "noise on standard output" in (far.folder / "log.txt").read_text()

    monkeypatch.delenv("FAKE_FAULT")
    near = train(home, "centroid", "near")
    for name in RESULTS:
        assert (far.folder / name).read_bytes() == (near.folder / name).read_bytes()


def test_features_and_heads_are_computed_on_workers(
    cluster: Any, home: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = cluster.scheduler_address.replace("tcp://", "dask://")
    monkeypatch.setattr(scheduling, "BATCH", 8)  # 16 images are worth two shares
    counted = Path(os.environ["COUNTED"])
    far = train(home, "pixels", "far", engine=engine)
    assert counted.read_text().split() == ["16"]
    assert not [*(far.folder / "features").glob("share-*")]
    shutil.rmtree(home.features)
    near = train(home, "pixels", "near")
    for name in RESULTS:
        assert (far.folder / name).read_bytes() == (near.folder / name).read_bytes()


@pytest.fixture(scope="module")
def done(prepared: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAKE_FAULT", ":")
        return train(Workspace(prepared), "centroid", "run").folder


@pytest.fixture
def asked(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose folds would take long."""
    monkeypatch.setenv("FAKE_FAULT", ":")
    shutil.copytree(done, tmp_path / "run")
    job = read_json(done / "job.json")
    job["params"] |= {"pause": 0.5, "epochs": 200}
    (tmp_path / "run" / "job.json").write_text(json.dumps(job))
    return tmp_path / "run"


def start_errand(run: Path, token: str) -> tuple[threading.Thread, list[str]]:
    ended: list[str] = []
    order = Order(str(run), str(run / "fold-0"), (0,), token)
    thread = threading.Thread(target=lambda: ended.append(run_errand(order)))
    thread.start()
    return thread, ended


def wait_for(condition: Any, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.05)


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("how", ["taken back", "not renewed", "another's"])
def test_a_worker_ends_its_child_when_its_lease_has_ended(
    how: str, asked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease, events = asked / "fold-0" / "lease", asked / "fold-0" / "events.jsonl"
    lease.write_text("mine 0")
    thread, ended = start_errand(asked, "mine")
    wait_for(lambda: events.exists() and b"status" in events.read_bytes())
    assert (asked / "fold-0" / "holder").read_text() == "mine"
    if how == "not renewed":
        monkeypatch.setattr(remote, "STALE", 0.5)
    elif how == "taken back":
        lease.unlink()
    else:
        lease.write_text("yours 0")
        second, _ = start_errand(asked, "yours")
        wait_for(lambda: read(asked / "fold-0" / "holder") == "yours")
        thread.join(60)
        lease.unlink()
        second.join(60)
    thread.join(60)
    assert len(ended) == 1
    assert not (asked / "fold-0" / "holder").exists()


def test_a_worker_with_other_versions_is_refused(asked: Path) -> None:
    job = read_json(asked / "job.json")
    job["environment"]["versions"]["numpy"] = "0.9"
    (asked / "job.json").write_text(json.dumps(job))
    (asked / "fold-0" / "lease").write_text("mine 0")
    order = Order(str(asked), str(asked / "fold-0"), (0,), "mine")
    assert "versions is" in run_errand(order)


def test_an_interrupted_host_takes_its_lease_back(cluster: Any, asked: Path) -> None:
    with distributed.Client(cluster, set_as_default=False) as client:
        address = next(iter(client.nthreads()))
        errand = Errand(client, address, asked, [0], asked / "fold-0")
        events = errand.events()
        assert next(events)["event"] == "opened"
        wait_for(lambda: (asked / "fold-0" / "holder").exists())
        errand.ask_to_stop()
        errand.kill(30)
        assert not (asked / "fold-0" / "holder").exists()
        errand.close()
