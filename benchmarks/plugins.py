"""Promise: plugins that are slow to import cost help and listing nothing: at most 1.3 times.

Makes up distributions whose modules sleep a second when they are imported, and runs each command
without them and with them, in turn, in processes of their own.

    python benchmarks/plugins.py [rounds] [plugins]
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMANDS = (("--help",), ("plugins", "list"), ("train", "--help"))
MOST = 1.3
MODULE = "import time\n\ntime.sleep(1)\n"


def write_plugins(folder: Path, count: int) -> None:
    """Write modules that sleep, and the metadata that make trainers of them."""
    for number in range(count):
        name = f"sleeper_{number}"
        (folder / f"{name}.py").write_text(MODULE)
        about = folder / f"{name}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nSummary: Sleeps.\n"
        )
        (about / "entry_points.txt").write_text(
            f"[medkit.trainers.v1]\nsleeper-{number} = {name}\n"
        )


def clock(arguments: tuple[str, ...], path: str) -> float:
    """Return the seconds that a command takes as a process."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "medkit", *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": path},
    )
    return time.perf_counter() - began


def main(rounds: int = 15, count: int = 20) -> None:
    """Print the medians without and with the plugins, and the median ratio."""
    with tempfile.TemporaryDirectory() as empty, tempfile.TemporaryDirectory() as full:
        write_plugins(Path(full), count)
        for arguments in COMMANDS:
            pairs = [(clock(arguments, empty), clock(arguments, full)) for _ in range(rounds)]
            without, with_them = (statistics.median(column) for column in zip(*pairs, strict=True))
            ratio = statistics.median(own / base for base, own in pairs)
            print(
                f"medkit {' '.join(arguments)}: median {without:.3f} s without, {with_them:.3f} s "
                f"with {count} plugins, ratio {ratio:.2f} (promise < {MOST})"
            )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
