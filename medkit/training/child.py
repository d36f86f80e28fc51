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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# Seconds that a child has to leave at a safe place once it is told to stop.
GRACE = 10.0

WORKER = "medkit.training.worker"

Event = dict[str, Any]


class Child:
    """A child process at its work.

    Parameters
    ----------
    folder : Path
        Holds the job.
    steps : sequence of int or str
        The folds to do, in order.
    variables : mapping
        The whole environment of the child.
    log : Path, optional
        What the child's output is added to; by default ``log.txt`` in the folder.
    python : str
        The interpreter that runs it: of this environment, or of an isolated one.
    module : str
        What it runs: the worker, or `medkit.testing.probe`, which watches a trainer in it.
    """

    def __init__(
        self,
        folder: Path,
        steps: Sequence[int | str],
        variables: Mapping[str, str],
        log: Path | None = None,
        python: str = sys.executable,
        module: str = WORKER,
    ) -> None:
        self.log = log or folder / "log.txt"
        command = [python, "-P", "-m", module, str(folder)]
        with self.log.open("ab") as output:
            self._start = output.seek(0, os.SEEK_END)
            self._process = subprocess.Popen(
                [*command, *map(str, steps)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=dict(variables),
                **_apart(),
            )

    def events(self) -> Iterator[Event]:
        """Yield what the child says, until it ends."""
        for line in self._process.stdout or ():
            try:
                yield json.loads(line)
            except ValueError:  # a last line that the child's death cut off
                continue

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def close(self) -> str:
        """Wait for the end; return how the child ended, empty if it ended as it should."""
        with self._process as process:
            process.wait()
        return _describe_end(process.returncode, _read_tail(self.log, self._start))

    def ask_to_stop(self) -> None:
        """Tell the child to leave at the next safe place."""
        try:
            if self._process.stdin is not None:
                self._process.stdin.write(b"stop")
                self._process.stdin.flush()
        except (OSError, ValueError):
            pass  # it ended before

    def kill(self, grace: float = 0.0) -> None:
        """End the child, after some seconds in which it may end by itself."""
        try:
            self._process.wait(grace)
        except subprocess.TimeoutExpired:
            pass  # it does not want to
        finally:  # also when Ctrl-C comes a second time
            self._process.kill()


def follow_child(
    folder: Path,
    steps: Sequence[int | str],
    variables: Mapping[str, str],
    handle: Callable[[Event], None],
    python: str = sys.executable,
) -> str:
    """Run a child process to its end.

    Parameters
    ----------
    folder, steps, variables, python
        As `Child` takes them.
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
    child = Child(folder, steps, variables, python=python)
    try:
        for event in child.events():
            handle(event)
        return child.close()
    except BaseException:  # also Ctrl-C: the child must not outlive this function
        child.ask_to_stop()
        child.kill(GRACE)
        child.close()
        raise


def _apart() -> dict[str, Any]:
    """Keep Ctrl-C in the terminal from the child: the host tells it to stop."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


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
