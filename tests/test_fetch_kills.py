"""A fetch of many files, killed again and again: it ends as one that was never killed."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from faultserver import FaultServer

FILES = 500
WORKERS = 4
CHUNK = 1 << 20  # what all connections together may lose to a kill

FETCH = """
import json, sys
from pathlib import Path
from medkit.sources.descriptor import Descriptor
from medkit.sources.fetching import fetch
from medkit.sources.pace import Pace
from medkit.sources.plans import Item, Plan
from medkit.workspace import Workspace

root, place, listing, workers = sys.argv[1:]
items = [Item(f"http://{place}{path}", path[1:], size, {"sha256": sha256})
         for path, size, sha256 in json.loads(Path(listing).read_text())]
plan = Plan(Descriptor("set", "A set", "1", "CC0-1.0", "https"), lambda: items, 1, asked=(place,))
with Workspace(Path(root)).lock():
    fetch(plan, Workspace(Path(root)), pace=Pace(workers=int(workers)))
"""


def make_objects() -> dict[str, bytes]:
    """Return files of many sizes, some of them larger than what is ever in flight."""
    source = random.Random(3)
    sizes = [source.randrange(1, 60_000) for _ in range(FILES - 4)] + [3_000_000] * 4
    source.shuffle(sizes)
    return {f"/{n % 7}/{n}.dcm": source.randbytes(size) for n, size in enumerate(sizes)}


def read_result(root: Path) -> dict[str, Any]:
    """Return the hash of every file, and the provenance without its time."""
    tree: dict[str, Any] = {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and path.name != ".lock"
    }
    provenance = "raw/set/provenance.json"
    if provenance in tree:
        tree[provenance] = json.loads((root / provenance).read_text()) | {"fetched": ""}
    return tree


def start(root: Path, server: FaultServer, listing: Path) -> subprocess.Popen[bytes]:
    place = server.url.removeprefix("http://")
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, str(root), place, str(listing), str(WORKERS)],
        stderr=subprocess.DEVNULL,
    )


def kill_at(child: subprocess.Popen[bytes], server: FaultServer, mark: int) -> bool:
    """Kill a fetch when the server has sent so many bytes; False if it had ended before."""
    while sum(server.sent.values()) < mark:
        if child.poll() is not None:
            return False
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    return child.wait() == -signal.SIGKILL


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.soak)])
def test_a_fetch_of_500_files_that_is_killed_ends_as_one_that_is_not(
    kills: int, tmp_path: Path
) -> None:
    """And what is sent twice is at most a chunk a kill, as the server counts it."""
    objects = make_objects()
    total = sum(map(len, objects.values()))
    listing = tmp_path / "listing.json"
    listing.write_text(
        json.dumps([(p, len(b), hashlib.sha256(b).hexdigest()) for p, b in objects.items()])
    )
    moments = random.Random(kills)
    done = 0
    with FaultServer(objects, buffer=1 << 16) as server:
        assert start(tmp_path / "whole", server, listing).wait() == 0
        assert sum(server.sent.values()) == total
        server.sent.clear()
        server.pause = 0.001
        while done < kills:
            step = moments.randrange(1, 2 * total // (kills + 1))
            child = start(tmp_path / "broken", server, listing)
            if not kill_at(child, server, sum(server.sent.values()) + step):
                break
            done += 1
        assert start(tmp_path / "broken", server, listing).wait() == 0
        again = sum(server.sent.values()) - total
    print(f"{done} kills, {again:,} bytes sent again, {again / max(done, 1):,.0f} a kill")
    assert done >= kills // 2
    assert again <= done * CHUNK
    whole, broken = (read_result(tmp_path / name) for name in ("whole", "broken"))
    assert {name for name in whole | broken if whole.get(name) != broken.get(name)} == set()
