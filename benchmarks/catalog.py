"""Promise: headers become a catalog 40 times as fast as pydicom reads them, in flat memory.

All on trees that `benchmarks/trees.py` makes, of honest sizes and warm in the page cache. medkit
scans a tree end to end into a catalog that can be queried; the peers put the same fields of a
sample of its files into a table. Every run is a process of its own, bound to one core, in turn;
the clock starts once it has imported all it needs and read a small tree, and what came before is
printed apart. Prints the promise beside each ratio, and how many files were read slowly, by
pydicom. Ratios by processor time are for machines that others use too.

    python benchmarks/catalog.py [--quick] [--files N] [--rounds N] [--million] [--place FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from trees import make_tree, print_mix

WARM_UP = 300  # files of the small tree
MEGABYTE = 2**20
Report = dict[str, Any]


def list_fields() -> list[str]:
    """Return the DICOM keywords that the catalog keeps of a plain image."""
    from medkit.catalog.schema import HEADER

    return [*HEADER.names, "ImagePositionPatient"]


def list_tags() -> list[int]:
    """Return the tags of the fields."""
    from pydicom.datadict import tag_for_keyword

    return [int(tag_for_keyword(name) or 0) for name in list_fields()]


def read_by_pydicom(paths: list[str], **options: Any) -> int:
    """Read with dcmread up to the pixel data, into a DataFrame."""
    import pandas as pd
    import pydicom

    names = list_fields()
    rows = []
    for path in paths:
        header = pydicom.dcmread(path, stop_before_pixels=True, **options)
        rows.append([header.get(name) for name in names])
    return len(pd.DataFrame(rows, columns=names))


def read_tags_by_pydicom(paths: list[str]) -> int:
    """Likewise, and ask for these tags only."""
    return read_by_pydicom(paths, specific_tags=list_fields())


def read_by_dicomsdl(paths: list[str], until: int = 0x7FE00000) -> int:
    """Read up to the pixel data and take all fields by one call, which is its fastest way."""
    import dicomsdl
    import pandas as pd

    names = list_fields()
    rows = [dicomsdl.open(path, load_until=until).getValues(names) for path in paths]
    return len(pd.DataFrame(rows, columns=names))


def read_whole_by_dicomsdl(paths: list[str]) -> int:
    """Likewise, with `open` as it comes: pixel data and all."""
    return read_by_dicomsdl(paths, until=0xFFFFFFFF)


def read_by_gdcm(paths: list[str]) -> int:
    """Scan for the tags; the values stay in the scanner's own tables."""
    import gdcm

    scanner = gdcm.Scanner()
    for tag in list_tags():
        scanner.AddTag(gdcm.Tag(tag >> 16, tag & 0xFFFF))
    if not scanner.Scan(paths):
        raise RuntimeError("gdcm could not scan")
    return len(scanner.GetKeys())


def read_by_simpleitk(paths: list[str]) -> int:
    """Read the header of each image and take the tags that are there."""
    import pandas as pd
    import SimpleITK

    keys = [f"{tag >> 16:04x}|{tag & 0xFFFF:04x}" for tag in list_tags()]
    rows = []
    for path in paths:
        reader = SimpleITK.ImageFileReader()
        reader.SetFileName(path)
        try:
            reader.ReadImageInformation()
        except RuntimeError:  # no image, or none that it reads
            continue
        present = {*reader.GetMetaDataKeys()}
        rows.append([reader.GetMetaData(key) if key in present else None for key in keys])
    return len(pd.DataFrame(rows, columns=keys))


def open_and_read(paths: list[str]) -> int:
    """Open each file and read 8 KB: what no reader can be faster than."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        os.read(handle, 8192)
        os.close(handle)
    return len(paths)


PEERS: dict[str, Callable[[list[str]], int]] = {
    "pydicom": read_by_pydicom,
    "pydicom, these tags only": read_tags_by_pydicom,
    "dicomsdl": read_whole_by_dicomsdl,
    "dicomsdl, up to the pixels": read_by_dicomsdl,
    "gdcm.Scanner": read_by_gdcm,
    "SimpleITK": read_by_simpleitk,
    "open and read 8 KB": open_and_read,
}
PROMISES = {
    ("plain", "pydicom"): 40,
    ("plain", "dicomsdl"): 8,
    ("plain", "gdcm.Scanner"): 15,
    ("idc", "pydicom"): 20,
}


def list_paths(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Walk a tree, and stat every file."""
    pending = [folder]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                else:
                    yield entry.path, entry.stat(follow_symlinks=False)


def choose_sample(tree: str, count: int) -> list[str]:
    """Return that many files spread evenly over a tree."""
    paths = sorted(path for path, _ in list_paths(tree))
    return paths[:: max(1, len(paths) // count)][:count]


def clock(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that a call takes, and what it returns."""
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def count_cpu() -> float:
    """Return the processor time so far, of this process and of those that it has ended."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def measure_peer(task: Report) -> Report:
    """Time a peer on a sample."""
    read = PEERS[task["peer"]]
    sample = choose_sample(task["tree"], task["sample"])
    read(sample[:20])
    ready = time.time() - psutil.Process().create_time()
    before = count_cpu()
    seconds, count = clock(lambda: read(sample))
    cpu = count_cpu() - before
    return {"ready": ready, "seconds": seconds, "cpu": cpu, "files": len(sample), "read": count}


def measure_scan(task: Report) -> Report:
    """Time a scan of a tree into a new catalog, and again with nothing changed."""
    from medkit.catalog.scan import Root, scan
    from medkit.catalog.store import Catalog

    def run(tree: str, catalog: Path) -> Any:
        return scan(catalog, [Root("benchmark", Path(tree))], workers=task["cores"])

    with tempfile.TemporaryDirectory(dir=task["place"]) as place:
        run(task["warm_up"], Path(place, "warm-up"))
        ready = time.time() - psutil.Process().create_time()
        catalog = Path(place, "catalog")
        before = count_cpu()
        seconds, summary = clock(lambda: run(task["tree"], catalog))
        cpu = count_cpu() - before
        again, unchanged = clock(lambda: run(task["tree"], catalog))
        found = Catalog.open(catalog).query("SELECT count(*) AS files FROM instances")
    walk, stats = clock(lambda: sum(1 for _ in list_paths(task["tree"])))
    if not summary.walked == unchanged.reused == stats == found["files"].item():
        raise RuntimeError(f"files were lost: {summary.sentence}; {unchanged.sentence}")
    return {
        "ready": ready,
        "seconds": seconds,
        "cpu": cpu,
        "again": again,
        "walk": walk,
        "files": stats,
        "sentence": summary.sentence,
    }


MEASURES = {"peer": measure_peer, "scan": measure_scan}


def run_child(task: Report, watched: bool = False) -> Report:
    """Do one measurement in a process of its own; watching its memory costs time."""
    command = [sys.executable, __file__, "--task", json.dumps(task)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        peaks = [0, 0]
        stop = threading.Event()
        watcher = threading.Thread(target=_watch_memory, args=(child.pid, peaks, stop))
        if watched:
            watcher.start()
        output, errors = child.communicate()
        stop.set()
        if watched:
            watcher.join()
    if child.returncode:
        sys.exit(errors.decode()[-2000:])
    return {**json.loads(output.splitlines()[-1]), "peak": peaks[0], "processes": peaks[1]}


def _watch_memory(pid: int, peaks: list[int], stop: threading.Event) -> None:
    """Keep the largest sum of the proportional set sizes, and the most processes, seen."""
    parent = psutil.Process(pid)
    while not stop.wait(0.05):
        total = count = 0
        for process in (parent, *_list_children(parent)):
            try:
                total += process.memory_full_info().pss
                count += 1
            except (psutil.Error, OSError):
                continue
        peaks[:] = max(peaks[0], total), max(peaks[1], count)


def _list_children(parent: psutil.Process) -> list[psutil.Process]:
    try:
        return parent.children(recursive=True)
    except psutil.Error:
        return []


def run_task(task: Report) -> None:
    """Bind this process to some cores, measure, and print the result."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: task["cores"]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what strays from the standard in the real heads
        print(json.dumps(MEASURES[task["measure"]](task)))


def measure_gain(rounds: int = 20_000_000) -> float:
    """Return how much more two processes do on two cores than one does on one.

    Cores of a virtual machine may be two threads of one, and then this is far from 2.
    """

    def run(core: int) -> subprocess.Popen[str]:
        code = (
            f"import os, time; os.sched_setaffinity(0, [{core}]); began = time.perf_counter()\n"
            f"for _ in range({rounds}): pass\n"
            "print(time.perf_counter() - began)"
        )
        return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)

    cores = sorted(os.sched_getaffinity(0))[:2]
    alone = float(run(cores[0]).communicate()[0])
    together = [float(child.communicate()[0]) for child in [run(core) for core in cores]]
    return 2 * alone / max(together)


def median_rate(reports: list[Report], seconds: str = "seconds") -> float:
    """Return the median of files a second."""
    return statistics.median(report["files"] / report[seconds] for report in reports)


def compare_rates(own: list[Report], others: list[Report], by: str) -> float:
    """Return the median, over the rounds, of the ratio of the rates."""
    return statistics.median(
        one["files"] / one[by] / (other["files"] / other[by])
        for one, other in zip(own, others, strict=True)
    )


class Bench:
    """The trees, and how often and how much is measured."""

    def __init__(self, options: argparse.Namespace, place: Path) -> None:
        self.options = options
        self.place = place
        self.warm_up = str(make_tree("plain", place, WARM_UP))

    def scan(self, tree: Path, cores: int = 1, watched: bool = False) -> Report:
        """Scan a tree in a child."""
        task = {"measure": "scan", "tree": str(tree), "cores": cores, "place": str(self.place)}
        return run_child({**task, "warm_up": self.warm_up}, watched)

    def read(self, tree: Path, peer: str) -> Report:
        """Let a peer read a sample in a child."""
        sample = self.options.sample
        task = {"measure": "peer", "tree": str(tree), "cores": 1, "peer": peer, "sample": sample}
        return run_child(task)

    def compare(self, kind: str) -> None:
        """Print how often as fast as its peers medkit is on a tree, and what a re-scan takes."""
        tree = make_tree(kind, self.place, self.options.files)
        open_and_read([path for path, _ in list_paths(str(tree))])
        print(f"\n{kind}: {self.options.files:,} files, one core, {self.options.rounds} rounds")
        scans: list[Report] = []
        reads: dict[str, list[Report]] = {peer: [] for peer in self.options.peers}
        for _ in range(self.options.rounds):
            if not self.options.peers_only:
                scans.append(self.scan(tree))
            for peer, reports in reads.items():
                reports.append(self.read(tree, peer))
        if scans:
            self._print_scans(scans)
        print(f"  peers, on {self.options.sample:,} of these files, spread evenly:")
        for peer, reports in reads.items():
            self._print_peer(kind, peer, reports, scans)

    def _print_scans(self, scans: list[Report]) -> None:
        ready = statistics.median(report["ready"] for report in scans)
        print(f"  medkit catalog: {median_rate(scans):,.0f} files/s; {scans[0]['sentence']}")
        print(f"    start of the interpreter, imports and warm-up, not counted: {ready:.1f} s")
        again, walk = median_rate(scans, "again"), median_rate(scans, "walk")
        promise = min(100_000, walk / 3)
        print(
            f"    unchanged re-scan: {again:,.0f} files/s (promise >= {promise:,.0f}); scandir "
            f"and stat {walk:,.0f} files/s"
        )

    def _print_peer(self, kind: str, peer: str, reports: list[Report], scans: list[Report]) -> None:
        line = f"    {peer}: {median_rate(reports):,.0f} files/s"
        if scans:
            ratio, cpu = (compare_rates(scans, reports, by) for by in ("seconds", "cpu"))
            line += f"; medkit {ratio:.1f} times as fast, by processor time {cpu:.1f}"
            promise = PROMISES.get((kind, peer))
            line += f" (promise {promise})" if promise else ""
        print(line, flush=True)

    def compare_cores(self) -> None:
        """Print how much faster two cores are than one."""
        if len(os.sched_getaffinity(0)) < 2:
            print("\ntwo cores: this machine lets this process have one")
            return
        tree = make_tree("plain", self.place, self.options.files)
        pairs = [(self.scan(tree, 1), self.scan(tree, 2)) for _ in range(self.options.rounds)]
        ratio = statistics.median(one["seconds"] / two["seconds"] for one, two in pairs)
        rate = median_rate([two for _, two in pairs])
        print(f"\ntwo cores: {rate:,.0f} files/s, {ratio:.2f} times one core (promise 1.7)")
        given = statistics.median(measure_gain() for _ in range(self.options.rounds))
        print(f"  this machine's second core: {given:.2f} times one, for loops that share nothing")

    def compare_memory(self) -> None:
        """Print the peak memory of trees of growing size."""
        print("\nmemory of all processes, peak (promise: flat, and < 500 MB)")
        sizes = [("plain", self.options.files // 10), ("plain", self.options.files)]
        sizes += [("small", 1_000_000)] if self.options.million else []
        for kind, count in sizes:
            report = self.scan(make_tree(kind, self.place, count), watched=True)
            print(
                f"  {kind}, {count:,} files: {report['peak'] / MEGABYTE:,.0f} MB in "
                f"{report['processes']} processes; {median_rate([report]):,.0f} files/s",
                flush=True,
            )


def parse_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=200_000, help="of a tree")
    parser.add_argument("--sample", type=int, default=5_000, help="of these, for the peers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="20,000 files, 1,000 for the peers")
    parser.add_argument("--million", action="store_true", help="also a million small files: 5 GB")
    parser.add_argument("--place", type=Path, help="keep the trees there, and use those there")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=[*PEERS])
    parser.add_argument("--peers-only", action="store_true", help="do not run medkit")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.files, options.sample, options.rounds = 20_000, 1_000, 1
    return options


def main() -> None:
    """Print all comparisons."""
    options = parse_options()
    if options.task:
        run_task(json.loads(options.task))
        return
    place = options.place or Path(tempfile.mkdtemp(prefix="medkit-benchmark-"))
    place.mkdir(parents=True, exist_ok=True)
    try:
        bench = Bench(options, place)
        bench.compare("plain")
        print_mix(options.files)
        bench.compare("idc")
        if not options.peers_only:
            bench.compare_cores()
            bench.compare_memory()
    finally:
        if options.place is None:
            shutil.rmtree(place)


if __name__ == "__main__":
    main()
