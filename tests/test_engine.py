"""The map over processes that may die."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from medkit import engine
from medkit.engine import Died, Outcome, map_items, map_threads, open_slurm, prefetch
from medkit.errors import UsageError


def square(number: int) -> int:
    return number * number


def die_at_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def fail(number: int) -> int:
    raise RuntimeError(f"a fault in the program, at {number}")


def hang_at_three(number: int) -> int:
    if number == 3:
        re.fullmatch("(a+)+b", "a" * 64)  # compiled code, which lets no other thread run
    return number


def allow_three_seconds(number: int) -> float:
    return 3


def by_item(outcomes: list[Outcome[int, int]]) -> dict[int, int | Died]:
    return {outcome.item: outcome.result for outcome in outcomes}


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_every_item_has_an_outcome(workers: int) -> None:
    found = by_item(list(map_items(square, range(20), workers=workers)))
    assert found == {number: number * number for number in range(20)}


def test_no_items_is_no_outcome() -> None:
    assert list(map_items(square, [], workers=2)) == []


@pytest.mark.skipif(os.name != "posix", reason="ends a process by a POSIX signal")
def test_only_the_item_that_kills_its_process_dies() -> None:
    found = by_item(list(map_items(die_at_three, range(12), workers=2)))
    assert isinstance(found.pop(3), Died)
    assert found == {number: number for number in range(12) if number != 3}


@pytest.mark.skipif(os.name != "posix", reason="a process ends as POSIX has it")
def test_only_the_item_that_hangs_is_ended() -> None:
    items = map_items(hang_at_three, [1, 3], workers=1, limit=allow_three_seconds)
    found = by_item(list(items))
    assert found == {1: 1, 3: Died("not done after 3 seconds", late=True)}


def test_no_process_is_started_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_open_pool", lambda workers: pytest.fail("a pool was opened"))
    assert list(map_items(square, iter(()), workers=2)) == []


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_threads_keep_the_order_and_take_items_lazily(workers: int) -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(50):
            taken.append(number)
            yield number

    results = map_threads(square, items(), workers)
    assert next(results) == 0
    assert len(taken) <= workers + 2
    assert list(results) == [number * number for number in range(1, 50)]


def test_a_fault_in_a_thread_is_raised() -> None:
    with pytest.raises(RuntimeError, match="at 0"):
        list(map_threads(fail, range(3), 2))


def test_what_is_prefetched_comes_in_order_and_ends_with_who_takes_it() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    assert list(prefetch(items(), 2)) == taken == list(range(100))
    taken.clear()
    some = prefetch(items(), 2)
    assert next(some) == 0
    some.close()
    assert len(taken) <= 5
    assert not [one for one in threading.enumerate() if one.name == "prefetch"]


def test_a_fault_while_prefetching_is_raised_where_it_is_used() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise RuntimeError("a fault in the program")

    with pytest.raises(RuntimeError, match="a fault"):
        list(prefetch(items(), 2))


def test_a_fault_in_the_function_is_raised() -> None:
    with pytest.raises(RuntimeError, match="a fault in the program"):
        list(map_items(fail, range(3), workers=1))


def test_items_are_taken_lazily() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    outcomes = map_items(square, items(), workers=1)
    next(outcomes)
    outcomes.close()
    assert len(taken) <= 4


def test_dask_workers_give_the_same_outcomes() -> None:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=1, processes=False, host="127.0.0.1", protocol="tcp://", dashboard_address=None
    ) as cluster:
        address = cluster.scheduler_address.replace("tcp://", "dask://")
        found = by_item(list(map_items(square, range(9), engine=address)))
    assert found == {number: number * number for number in range(9)}


def test_a_scheduler_without_workers_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(engine, "WORKER_SECONDS", 0.1)
    with (
        distributed.LocalCluster(
            n_workers=0,
            processes=False,
            host="127.0.0.1",
            protocol="tcp://",
            dashboard_address=None,
        ) as cluster,
        pytest.raises(UsageError, match="has no workers; start some"),
    ):
        list(map_items(square, [1], engine=cluster.scheduler_address.replace("tcp", "dask")))


SLURM = "slurm?queue=gpu&account=ward7&walltime=02:00:00&cores=8&memory=32GB&gpus=1&jobs=0"


def test_a_job_of_slurm_asks_for_what_the_engine_says() -> None:
    pytest.importorskip("dask_jobqueue")
    with open_slurm(f"{SLURM}&directive=--constraint=a100&directive=--exclusive") as cluster:
        script = cluster.job_script()
    lines = [line.strip() for line in script.splitlines()]
    assert {
        *("#SBATCH -p gpu", "#SBATCH -A ward7", "#SBATCH -t 02:00:00", "#SBATCH --gres=gpu:1"),
        *("#SBATCH -J medkit", "#SBATCH --cpus-per-task=8", "#SBATCH --mem=30G"),
        *("#SBATCH --constraint=a100", "#SBATCH --exclusive"),
    } <= {*lines}
    assert f"{sys.executable} -m distributed.cli.dask_worker" in script
    assert "--nthreads 8" in script and "--nworkers" not in script  # a worker a job


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slurm?colour=red", "unknown option 'colour' .*queue, account, walltime"),
        ("slurm?cores=many&memory=1GB", "cores of the engine slurm is a whole number"),
        ("slurm?cores", "name=value with & between"),
        ("slurm?cores=2", "does not say memory of a job"),
    ],
)
def test_what_slurm_cannot_be_asked_is_a_usage_error(text: str, message: str) -> None:
    pytest.importorskip("dask_jobqueue")
    with pytest.raises(UsageError, match=message):
        open_slurm(text)


@pytest.mark.parametrize("name", ["slurmy", "dask://", "dask"])
def test_an_unknown_engine_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match="dask://host:8786"):
        list(map_items(square, [1], engine=name))


@pytest.mark.skipif(os.name != "posix", reason="ends a process by a POSIX signal")
def test_workers_end_with_a_parent_that_is_killed() -> None:
    script = (
        "import time\n"
        "from medkit.engine import map_items\n"
        "if __name__ == '__main__':\n"
        "    for outcome in map_items(time.sleep, [0, 60], workers=2):\n"
        "        print('ready', flush=True)\n"
    )
    psutil = pytest.importorskip("psutil")
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as host:
        assert host.stdout is not None
        host.stdout.readline()
        workers = psutil.Process(host.pid).children(recursive=True)
        assert workers
        host.kill()
    until = time.monotonic() + 20
    while any(worker.is_running() for worker in workers) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(
        worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers
    )
