"""How fast objects are brought, and how many bytes have come."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from medkit.engine import Progress

_TELL_SECONDS = 0.1


@dataclass(frozen=True)
class Pace:
    """How fast, and how patiently.

    Attributes
    ----------
    workers : int
        Objects under way at a time.
    rate : int or None
        Bytes a second, of all together; None for as many as there come.
    attempts : int
        To get an object, in a row and without progress.
    patience : float
        Seconds to wait for a connection, and for the next byte.
    slowest : int
        Bytes a second that must come over that time, or it is asked for again.
    largest : int or None
        Bytes that an object may have at most.
    """

    workers: int = 8
    rate: int | None = None
    attempts: int = 5
    patience: float = 30.0
    slowest: int = 512
    largest: int | None = None


class Stopped(Exception):  # noqa: N818 - nothing is wrong
    """The work was ended while this part of it was under way."""


class Meter:
    """Counts the bytes of all workers, tells of them now and then, and holds them to the rate.

    Parameters
    ----------
    rate : int or None
        As of `Pace`.
    total : int or None
        Bytes in all, if known.
    progress : callable
        Is told.

    Attributes
    ----------
    stop : Event
        Set when all work is to end.
    """

    def __init__(self, rate: int | None, total: int | None, progress: Progress) -> None:
        self.stop = threading.Event()
        self._rate, self._total, self._progress = rate, total, progress
        self._lock = threading.Lock()
        self._done = 0
        self._told = self._due = 0.0

    def move(self, count: int) -> None:
        """Take in bytes that came; waits where they came too fast.

        Raises
        ------
        Stopped
            If the work is to end.
        """
        pause = 0.0
        with self._lock:
            now = time.monotonic()
            if self._rate:
                self._due = max(now, self._due) + count / self._rate
                pause = self._due - now
            self._show(count, now)
        if self.stop.wait(pause) if pause > 0 else self.stop.is_set():
            raise Stopped

    def skip(self, count: int) -> None:
        """Take in bytes that were here already, or, below zero, that came in vain."""
        if count:
            with self._lock:
                self._show(count, time.monotonic())

    def end(self) -> None:
        """Tell how many there are in the end."""
        with self._lock:
            self._told = 0.0
            self._show(0, time.monotonic())

    def _show(self, count: int, now: float) -> None:
        self._done += count
        if now - self._told > _TELL_SECONDS:
            self._told = now
            self._progress(self._done, self._total, "bytes")
