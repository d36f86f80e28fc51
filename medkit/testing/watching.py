"""Following a child under a time limit, whatever it does and whatever it leaves behind."""

from __future__ import annotations

import math
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue
from tempfile import TemporaryFile
from threading import Thread
from typing import IO

from medkit.training.child import GRACE, Child, Event

PROBE = "medkit.testing.probe"
_MARK = "MEDKIT_TRIAL"
_LOOK = 0.05  # seconds between two looks at whether a child goes on
_LINGER = 3.0  # seconds that what it started may take to end after it


class Watch:
    """Children that do the steps of a job, one after the other if one fails.

    Parameters
    ----------
    folder : Path
        Of the job.
    variables : mapping
        The whole environment of the children.
    seconds : float
        That one may take to begin, and for each step.
    python : str
        The interpreter that runs them.

    Attributes
    ----------
    errors : dict of int or None to str
        Why a step was not finished; under None, why none was begun.
    left : list of str
        What processes went on when the child that started them had ended.
    lingered : float
        Seconds from the stop that a child asked for to its end; 0 where none did.
    late : bool
        True if a child was killed because it did not end in time.
    """

    def __init__(
        self, folder: Path, variables: Mapping[str, str], seconds: float, python: str
    ) -> None:
        self._folder, self._seconds, self._python = folder, seconds, python
        self._mark = secrets.token_hex(8)
        self._variables = {**variables, _MARK: self._mark}
        self._current: int | None = None
        self._until = self._asked = 0.0
        self.errors: dict[int | None, str] = {}
        self.left: list[str] = []
        self.lingered, self.late = 0.0, False

    def follow(
        self, steps: Sequence[int], handle: Callable[[Event], None], vital: Collection[int] = ()
    ) -> None:
        """Have the steps done; one that fails costs itself alone, unless it is a vital one."""
        waiting = list(steps)
        while True:
            self._current = None
            ended = self._follow_child(waiting, handle)
            if not ended and not waiting:
                return
            self.errors.setdefault(self._current, ended or "the child process left its work")
            if self._current is None or self._current in vital or self.late:
                break
            waiting.remove(self._current)
            if not waiting:
                return
        for step in waiting:
            self.errors.setdefault(step, self.errors[self._current])

    def _follow_child(self, waiting: list[int], handle: Callable[[Event], None]) -> str:
        child = Child(self._folder, waiting, self._variables, python=self._python, module=PROBE)
        self._until = time.monotonic() + self._seconds
        inbox: Queue[Event | None] = Queue()
        Thread(target=_listen, args=(child, inbox), daemon=True).start()
        try:
            while (event := self._wait(child, inbox)) is not None:
                self._note(child, waiting, event)
                handle(event)
            ended = child.close()
        except BaseException:  # also Ctrl-C: no child may outlive this function
            child.kill()
            end_marked(self._mark)
            raise
        self.lingered = time.monotonic() - self._asked if self._asked else 0.0
        self._wait_for_others()
        limit = GRACE if self._asked or not waiting else self._seconds
        return f"it did not end within {limit:g} s and was killed" if self.late else ended

    def _wait(self, child: Child, inbox: Queue[Event | None]) -> Event | None:
        while True:
            with suppress(Empty):
                return inbox.get(timeout=_LOOK)
            if time.monotonic() > self._until:
                self.late, self._until = True, math.inf
                child.kill()
            if not child.alive:
                self._wait_for_others()  # they may hold the pipe, which would never end

    def _wait_for_others(self) -> None:
        until = time.monotonic() + _LINGER
        while list_marked(self._mark):
            if time.monotonic() > until:
                self.left += end_marked(self._mark)
                return
            time.sleep(_LOOK)

    def _note(self, child: Child, waiting: list[int], event: Event) -> None:
        match event["event"]:
            case "started":
                self._current = event["fold"]
                self._until = time.monotonic() + self._seconds
            case "finished":
                waiting.remove(event["fold"])
                self._current = None
                if not waiting:  # there is nothing left to do but to end
                    self._until = min(self._until, time.monotonic() + GRACE)
            case "failed":
                self.errors[self._current] = event["error"]
            case "stop-me":
                self._asked = time.monotonic()
                self._until = min(self._until, self._asked + GRACE)
                child.ask_to_stop()


def _listen(child: Child, inbox: Queue[Event | None]) -> None:
    for event in child.events():
        inbox.put(event)
    inbox.put(None)


def run_marked(
    command: Sequence[str], variables: Mapping[str, str], folder: Path, seconds: float
) -> tuple[str, str]:
    """Run a command in a folder, and end it and what it started when the time is over.

    Returns
    -------
    str, str
        What it printed on standard output, and how it ended.
    """
    mark = secrets.token_hex(8)
    # Files and not pipes: a process that it leaves behind would hold a pipe open.
    with TemporaryFile() as out, TemporaryFile() as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=errors,
            cwd=folder,
            env={**variables, _MARK: mark},
            start_new_session=True,
        )
        try:
            ended = f"ended with exit code {process.wait(seconds)}"
        except subprocess.TimeoutExpired:
            ended = f"did not end within {seconds:g} s"
        finally:
            process.kill()
            process.wait()
            end_marked(mark)
        printed, words = (_read_all(file) for file in (out, errors))
    return printed, f"{ended}; its last words: {' | '.join(words.splitlines()[-3:])[-300:]}"


def _read_all(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")


def list_marked(mark: str) -> dict[int, str]:
    """Return the processes that carry a mark in their environment: their ids and commands."""
    return dict(_find_marked(f"{_MARK}={mark}"))


def end_marked(mark: str) -> list[str]:
    """Kill them, and return what they were."""
    found = list_marked(mark)
    for process in found:
        with suppress(OSError):
            os.kill(process, getattr(signal, "SIGKILL", signal.SIGTERM))
    return list(found.values())


def _find_marked(text: str) -> Iterator[tuple[int, str]]:
    if not Path("/proc/self/environ").exists():
        yield from _ask_ps(text)
        return
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):  # it has ended, or is another's
                if text.encode() in (folder / "environ").read_bytes().split(b"\0"):
                    words = (folder / "cmdline").read_bytes().split(b"\0")
                    yield int(folder.name), b" ".join(words).decode("utf-8", "replace").strip()


def _ask_ps(text: str) -> Iterator[tuple[int, str]]:
    """On macOS ``ps`` shows the environment behind the command; on Windows there is neither."""
    with suppress(OSError):
        listed = subprocess.run(["ps", "-axEww", "-o", "pid=,command="], capture_output=True)
        for line in listed.stdout.decode("utf-8", "replace").splitlines():
            number, _, command = line.strip().partition(" ")
            if f" {text}" in command:
                yield int(number), command.split(" ")[0]
