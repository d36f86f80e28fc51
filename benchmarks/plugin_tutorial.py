"""Promise: a trainer of one's own in under ten minutes, 60 s of them the machine's, fits aside.

Does what docs/plugin-tutorial.md says, as it says it, in a new environment and an empty folder, and
prints the seconds of each command: on the wall, and of processors. pip needs its index, or what it
has kept, for the environment; ``--python`` takes one that has medkit and scikit-learn already.

    python benchmarks/plugin_tutorial.py [--python PYTHON]
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = REPOSITORY / "docs" / "plugin-tutorial.md"


def list_commands(page: str) -> list[str]:
    """Return the commands of a page, but those of its first step: they make the environment."""
    steps = page.split("\n## ")[2:]
    return re.findall(r"^    (\S.*)$", "\n".join(steps), re.MULTILINE)


def list_edits(page: str) -> list[tuple[str, str, str]]:
    """Return (file, old line, new line) of each edit that a page shows."""
    edits, file, old = [], "", ""
    for line in re.findall(r"```diff\n(.*?)```", page, re.DOTALL)[0].splitlines():
        if line.startswith("--- "):
            file = line.removeprefix("--- ")
        elif line.startswith("-"):
            old = line[1:]
        else:
            edits.append((file, old, line[1:]))
    return edits


def edit(folder: Path, file: str, old: str, new: str) -> None:
    """Replace a line of a file; there must be one."""
    text = (folder / file).read_text(encoding="utf-8")
    if text.count(f"{old}\n") != 1:
        raise SystemExit(f"{file} does not have the line once that the page edits: {old}")
    (folder / file).write_text(text.replace(f"{old}\n", f"{new}\n"), encoding="utf-8")


def make_environment(folder: Path) -> Path:
    """Install medkit as the page's first step does; return the folder of its commands."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    scripts = folder / ("Scripts" if sys.platform == "win32" else "bin")
    command = [scripts / "python", "-m", "pip", "install", "-q", "-c", "constraints.txt"]
    packages = ["-e", ".[demo]", "-e", "plugins/medkit-softmax", "scikit-learn"]
    subprocess.run([*command, *packages], cwd=REPOSITORY, check=True)
    return scripts


def clock(command: str, folder: Path, scripts: Path) -> tuple[float, float]:
    """Return the seconds of a command on the wall, and of processors."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    path = f"{scripts}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        shlex.split(command),
        cwd=folder,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, spent


def walk(folder: Path, scripts: Path) -> list[tuple[str, float, float]]:
    """Do all that the page says; return each command and its seconds."""
    page, told = PAGE.read_text(encoding="utf-8"), []
    for command in list_commands(page):
        if " plugins check " in command:
            for change in list_edits(page):
                edit(folder, *change)
        told.append((command, *clock(command, folder, scripts)))
        print(f"{told[-1][1]:7.1f} s, {told[-1][2]:6.1f} s of processors  {command}", flush=True)
    return told


def main() -> None:
    """Print what each command took, and all of them without the fits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", type=Path, help="of an environment that has medkit already")
    given = parser.parse_args().python
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        began = time.perf_counter()
        scripts = given.absolute().parent if given else make_environment(root / "venv")
        print(f"{time.perf_counter() - began:7.1f} s  the environment")
        (folder := root / "mine").mkdir()
        told = walk(folder, scripts)
        reports = [path for path in folder.rglob("*.html") if "reports" in path.parts]
        both = [path for path in reports if "outlines" in path.read_text(encoding="utf-8")]
        print(f"reports that compare both: {len(both)}")
    rest = [each for each in told if not each[0].startswith("medkit train")]
    wall, spent = (sum(each[place] for each in rest) for place in (1, 2))
    print(f"without the fits: {wall:.1f} s, {spent:.1f} s of processors (promise < 60)")


if __name__ == "__main__":
    main()
