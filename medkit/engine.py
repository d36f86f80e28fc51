"""Map a function over items in processes that may die, here or on Dask workers.

Items are small descriptions and results are small tables; pixels never travel through here.
"""

from __future__ import annotations

import faulthandler
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from queue import Full, Queue
from typing import Any, Generic, TypeVar
from urllib.parse import parse_qs

from medkit.errors import UsageError

# Seconds in which the workers of a Dask scheduler answer, if it has any.
WORKER_SECONDS = 30
_JOBS = 5
_SLURM_OPTIONS = (
    *("queue", "account", "walltime", "cores", "memory", "gpus", "jobs", "directive"),
    *("interface", "log_directory", "local_directory"),
)

Item = TypeVar("Item")
Result = TypeVar("Result")

# What a long stage reports to: (done, total or None where it is not known yet, unit).
Progress = Callable[[int, int | None, str], None]


def silent(done: int, total: int | None, unit: str) -> None:
    """Report progress to nobody."""


@dataclass(frozen=True)
class Died:
    """Stands for the result of an item whose process was ended by the system.

    Attributes
    ----------
    detail : str
        What is known of the end.
    late : bool
        It was ended because it took too long.
    """

    detail: str
    late: bool = False


@dataclass(frozen=True)
class Outcome(Generic[Item, Result]):
    """An item and what came of it."""

    item: Item
    result: Result | Died


def count_workers(workers: int | None) -> int:
    """Return how many processes to use: those asked for, else the processors at hand."""
    if workers is not None:
        return workers
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_items(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    engine: str = "local",
    workers: int | None = None,
    limit: Callable[[Item], float] | None = None,
) -> Iterator[Outcome[Item, Result]]:
    """Apply a function to each item and yield the outcomes as they finish, in any order.

    Parameters
    ----------
    function : callable
        Importable by name. What it raises ends the whole map: errors of one item belong in its
        result.
    items : iterable
        Taken lazily: only a few more than there are workers are in hand at a time. No process
        is started before there is one.
    engine : str
        ``"local"`` for processes here, or what `open_cluster` takes.
    workers : int, optional
        Processes to use here; by default the processors at hand. ``0`` runs in this process.
    limit : callable, optional
        Importable by name; the seconds that an item may take in a process here, before that
        process is ended. Dask has workers of its own, which nothing here may end.

    Yields
    ------
    Outcome
        ``result`` is `Died` where the process was ended while it worked on that item.
    """
    if engine != "local":
        yield from _map_dask(function, items, engine)
    elif workers == 0:
        for item in items:
            yield Outcome(item, function(item))
    else:
        call = partial(_call_in_time, function, limit) if limit else function
        yield from _map_local(call, iter(items), count_workers(workers), limit)


def _map_local(
    function: Callable[[Item], Result],
    items: Iterator[Item],
    workers: int,
    limit: Callable[[Item], float] | None,
) -> Iterator[Outcome[Item, Result]]:
    for first in items:  # a pool is opened only for those there are
        suspects: list[Item] = []
        yield from _map_until_broken(function, chain([first], items), workers, suspects)
        # One of these ended the pool; each is tried again alone, so that only the guilty one dies.
        for item in suspects:
            yield Outcome(item, _call_alone(function, item, limit))


def _map_until_broken(
    function: Callable[[Item], Result],
    items: Iterator[Item],
    workers: int,
    suspects: list[Item],
) -> Iterator[Outcome[Item, Result]]:
    """Yield outcomes; when the pool breaks, what was in hand goes to ``suspects``."""
    running: dict[Future[Result], Item] = {}
    pool = _open_pool(workers)
    try:
        while not suspects:
            for item in islice(items, 2 * workers - len(running)):
                try:
                    running[pool.submit(function, item)] = item
                except BrokenProcessPool:
                    suspects.append(item)
            if not running and not suspects:
                return
            yield from _collect(running, suspects)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    suspects.extend(running.values())


def _collect(
    running: dict[Future[Result], Item], suspects: list[Item]
) -> Iterator[Outcome[Item, Result]]:
    """Yield what has finished; items of a broken pool go to the suspects."""
    finished, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in finished:
        item = running.pop(future)
        try:
            yield Outcome(item, future.result())
        except BrokenProcessPool:
            suspects.append(item)


def _call_alone(
    function: Callable[[Item], Result], item: Item, limit: Callable[[Item], float] | None
) -> Result | Died:
    with _open_pool(1) as pool:
        began = time.monotonic()
        try:
            return pool.submit(function, item).result()
        except BrokenProcessPool as error:
            seconds = limit(item) if limit else math.inf
            late = time.monotonic() - began >= seconds
            return Died(f"not done after {seconds:.0f} seconds" if late else str(error), late)


def _call_in_time(
    function: Callable[[Item], Result], limit: Callable[[Item], float], item: Item
) -> Result:
    """Call a function, and end this process when it takes too long.

    What hangs may be compiled code that lets no other Python run; faulthandler waits in a thread
    that needs none.
    """
    with Path(os.devnull).open("w") as nowhere:
        faulthandler.dump_traceback_later(limit(item), exit=True, file=nowhere)
        try:
            return function(item)
        finally:
            faulthandler.cancel_dump_traceback_later()


def map_threads(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[Result]:
    """Apply a function that releases the GIL to each item, in threads; results keep the order.

    Items are taken lazily, a few more than there are workers; none of these at all means here.
    """
    if workers == 0:
        yield from map(function, items)
        return
    running: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                running.append(pool.submit(function, item))
                while len(running) > workers + 1 or (running and running[0].done()):
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()


def prefetch(items: Iterable[Item], ahead: int) -> Generator[Item, None, None]:
    """Yield the same items, which a thread takes, so many ahead at most."""
    ready: Queue[Item | BaseException | None] = Queue(ahead)
    stopped = threading.Event()

    def put(item: Item | BaseException | None) -> None:
        while not stopped.is_set():
            with suppress(Full):
                return ready.put(item, timeout=0.1)

    def run() -> None:
        try:
            for item in items:
                put(item)
                if stopped.is_set():
                    return
            put(None)
        except BaseException as error:  # it is raised where the items are used
            put(error)

    thread = threading.Thread(target=run, name="prefetch", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()


def _open_pool(workers: int) -> ProcessPoolExecutor:
    # Forking a process that has threads (pyarrow, tensorstore) can hang; spawning cannot.
    # Windows can wait for 61 processes at most.
    return ProcessPoolExecutor(
        min(workers, 61), mp_context=get_context("spawn"), initializer=_begin_work
    )


def _begin_work() -> None:
    """Make this worker one thread wide, and end it when its parent is killed.

    The processes share the processors already; BLAS threads of each would only wait for one
    another. NumPy reads these variables when it is first imported, which is later than this.
    """
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")

    def watch() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _map_dask(
    function: Callable[[Item], Result], items: Iterable[Item], engine: str
) -> Iterator[Outcome[Item, Result]]:
    with open_cluster(engine) as client, client.as_current():
        import distributed

        waiting = iter(items)
        limit = 2 * max(1, len(client.nthreads()))
        futures: dict[Any, Item] = {}
        while True:
            for item in islice(waiting, limit - len(futures)):
                futures[client.submit(function, item, pure=False)] = item
            if not futures:
                return
            done = distributed.wait(list(futures), return_when="FIRST_COMPLETED").done  # type: ignore[no-untyped-call]
            for future in done:
                yield _dask_outcome(futures.pop(future), future)


def _dask_outcome(item: Item, future: Any) -> Outcome[Item, Result]:
    from distributed.scheduler import KilledWorker

    try:
        return Outcome(item, future.result())
    except KilledWorker as error:
        return Outcome(item, Died(str(error)))


@contextmanager
def open_cluster(engine: str) -> Iterator[Any]:
    """Yield a client of the Dask cluster that an engine names.

    Parameters
    ----------
    engine : str
        ``"dask://host:port"`` of a scheduler, or ``"slurm"`` for jobs that dask-jobqueue submits
        and that end with this: ``"slurm?queue=gpu&walltime=02:00:00&cores=8&memory=32GB&gpus=1"``.
        Where an option is not given, Dask's own configuration (``jobqueue.slurm``) has it.

    Raises
    ------
    UsageError
        If it is none of these, Dask is not installed, or no worker answers.
    """
    scheme, _, address = engine.partition("://")
    slurm = engine.partition("?")[0] == "slurm"
    if not slurm and (scheme != "dask" or not address):
        raise UsageError(
            f"unknown engine {engine!r}; use 'local', 'dask://host:8786' for a Dask scheduler, "
            "or 'slurm?queue=NAME&cores=8&memory=32GB' for jobs of SLURM"
        )
    try:
        import distributed
    except ImportError:
        raise UsageError("Dask is not installed; install medkit[dask]") from None
    with (
        open_slurm(engine) if slurm else nullcontext(address) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,  # type: ignore[no-untyped-call]
    ):
        try:
            # A job can stand in a queue for hours; workers of a scheduler are there, or are not.
            client.wait_for_workers(1, timeout=None if slurm else WORKER_SECONDS)
        except TimeoutError:
            raise UsageError(f"the Dask scheduler {address} has no workers; start some") from None
        yield client


def open_slurm(engine: str) -> Any:
    """Return a cluster whose workers are jobs of SLURM, one worker a job.

    Parameters
    ----------
    engine : str
        As `open_cluster` takes it. ``jobs`` says how many, 5 by default; ``gpus`` how many each
        has; ``directive`` adds a line of ``#SBATCH`` and may be repeated; ``queue``, ``account``,
        ``walltime``, ``cores``, ``memory``, ``interface``, ``log_directory`` and
        ``local_directory`` are dask-jobqueue's.

    Raises
    ------
    UsageError
        If an option is unknown or missing, or dask-jobqueue is not installed.
    """
    options = _read_options(engine.partition("?")[2])
    try:
        import dask
        from dask_jobqueue.slurm import SLURMCluster
    except ImportError:
        raise UsageError("dask-jobqueue is not installed; install medkit[slurm]") from None
    jobs, gpus = _take_count(options, "jobs", _JOBS), _take_count(options, "gpus")
    directives = [*options.pop("directive", []), *([f"--gres=gpu:{gpus}"] if gpus else [])]
    cores = _take_count(options, "cores")
    given: dict[str, Any] = {name: values[-1] for name, values in options.items()}
    if cores:
        given["cores"] = cores
    if directives:
        given["job_extra_directives"] = directives
    # Asked here: a cluster that cannot be made complains once more when it is forgotten.
    needed = ("cores", "memory")
    if lacking := [name for name in needed if not given.get(name, _configured(dask, name))]:
        raise UsageError(
            f"the engine {engine!r} does not say {' and '.join(lacking)} of a job, nor does "
            "jobqueue.slurm in Dask's configuration; say 'slurm?cores=8&memory=32GB'"
        )
    try:
        cluster = SLURMCluster(processes=1, job_name="medkit", **given)
    except ValueError as error:
        raise UsageError(f"SLURM cannot be asked for {engine!r}: {error}") from None
    cluster.scale(jobs=jobs)  # type: ignore[no-untyped-call]
    return cluster


def _configured(dask: Any, name: str) -> Any:
    return dask.config.get(f"jobqueue.slurm.{name}", None)


def _read_options(text: str) -> dict[str, list[str]]:
    try:
        options = parse_qs(text, strict_parsing=bool(text), keep_blank_values=True)
    except ValueError as error:
        raise UsageError(f"options of an engine are name=value with & between: {error}") from None
    if unknown := sorted({*options} - {*_SLURM_OPTIONS}):
        raise UsageError(
            f"unknown option {unknown[0]!r} of the engine slurm; use {', '.join(_SLURM_OPTIONS)}"
        )
    return options


def _take_count(options: dict[str, list[str]], name: str, default: int = 0) -> int:
    """Take a number out of the options."""
    value = options.pop(name, [str(default)])[-1]
    if not value.isdecimal():
        raise UsageError(f"{name} of the engine slurm is a whole number, such as 2, not {value!r}")
    return int(value)
