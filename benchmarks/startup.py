"""Promise: help and listing start in less than four times what typer and rich alone take.

Runs each command in turn, in processes of their own, and prints medians and ratios.

    python benchmarks/startup.py [rounds]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

BASE = [sys.executable, "-c", "import typer, rich"]
COMMANDS = {
    "medkit --help": [sys.executable, "-m", "medkit", "--help"],
    "medkit plugins list": [sys.executable, "-m", "medkit", "plugins", "list"],
}


def clock(command: list[str]) -> float:
    """Return the seconds that a command takes as a process."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main(rounds: int = 15) -> None:
    """Print the medians and the ratio of each command to the base, round by round."""
    seconds: dict[str, list[float]] = {name: [] for name in ("base", *COMMANDS)}
    for _ in range(rounds):
        seconds["base"].append(clock(BASE))
        for name, command in COMMANDS.items():
            seconds[name].append(clock(command))
    print(f"import typer, rich: median {statistics.median(seconds['base']):.3f} s")
    for name in COMMANDS:
        ratios = [own / base for own, base in zip(seconds[name], seconds["base"], strict=True)]
        median = statistics.median(seconds[name])
        print(f"{name}: median {median:.3f} s, ratio {statistics.median(ratios):.2f} (promise < 4)")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
