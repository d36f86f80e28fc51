"""Starting a child process, listening to it, and ending it.

A subprocess and not multiprocessing: the backend is chosen before anything is imported, memory of
a GPU comes back when the child ends, and a child that dies takes nothing with it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# Seconds that a child has to leave at a safe place once it is told to stop.
GRACE = 10.0

Event = dict[str, Any]


def follow_child(
    folder: Path,
    steps: list[str],
    variables: Mapping[str, str],
    handle: Callable[[Event], None],
) -> str:
    """Run a child process to its end.

    Parameters
    ----------
    folder : Path
        Holds the job; the child's output is added to ``log.txt`` there.
    steps : list of str
        The folds to do, in order.
    variables : mapping
        The whole environment of the child.
    handle : callable
        Called with each event the child sends.

    Returns
    -------
    str
        Empty if the child ended as it should, else how it ended, for a person.

    Raises
    ------
    KeyboardInterrupt
        After the child has been told to stop and has ended.
    """
    command = [sys.executable, "-P", "-m", "medkit.training.worker", str(folder), *steps]
    with (folder / "log.txt").open("ab") as log:
        start = log.seek(0, os.SEEK_END)
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=dict(variables),
            **_apart(),
        ) as child:
            try:
                _listen(child, handle)
            except BaseException:  # also Ctrl-C: the child must not outlive this function
                _stop(child)
                raise
    return _describe_end(child.returncode, _read_tail(folder / "log.txt", start))


def _apart() -> dict[str, Any]:
    """Keep Ctrl-C in the terminal from the child: the host tells it to stop."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def _listen(child: subprocess.Popen[bytes], handle: Callable[[Event], None]) -> None:
    for line in child.stdout or ():
        try:
            event = json.loads(line)
        except ValueError:  # a last line that the child's death cut off
            continue
        handle(event)


def _stop(child: subprocess.Popen[bytes]) -> None:
    try:
        if child.stdin is not None:
            child.stdin.write(b"stop")
            child.stdin.flush()
        child.wait(GRACE)
    except (OSError, subprocess.TimeoutExpired):
        pass  # it ended before, or does not want to
    finally:  # also when Ctrl-C comes a second time
        child.kill()


def _describe_end(code: int, tail: str) -> str:
    if code == 0:
        return ""
    how = f"ended with exit code {code}"
    if code < 0:
        how = f"was ended by {_name_signal(-code)}"
    if code == -9:  # the kernel's out-of-memory killer sends it, and leaves no word in the log
        how += ", as happens when memory runs out"
    return f"the child process {how}" + (f"; its last words: {tail}" if tail else "")


def _name_signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _read_tail(log: Path, start: int, lines: int = 3, width: int = 300) -> str:
    with log.open("rb") as file:
        file.seek(max(start, log.stat().st_size - 8192))
        text = file.read().decode("utf-8", "replace")
    return " | ".join(line[:width] for line in text.splitlines()[-lines:] if line.strip())
