"""Trying again: after a while that grows, or when the server says, and not for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import tenacity

from medkit.errors import SourceError
from medkit.sources.plans import Unsteady

ATTEMPTS = 5
# A server that asks for a longer pause is taken at its word another day.
LONGEST = 600.0
_backoff = tenacity.wait_random_exponential(multiplier=1, max=30)

Result = TypeVar("Result")


def persist(
    attempt: Callable[[], Result],
    what: str,
    *,
    verb: str = "fetched",
    attempts: int = ATTEMPTS,
    progress: Callable[[], int] = lambda: 0,
    stop: threading.Event | None = None,
) -> Result:
    """Return what an attempt comes to; `plans.Unsteady` and an OSError are tried again.

    Parameters
    ----------
    attempt : callable
        Is called until it returns or raises something else.
    what : str
        What is attempted, for the message.
    verb : str
        What is to happen to it, for the message, too.
    attempts : int
        How many attempts without progress there may be in a row.
    progress : callable
        Returns a number that has grown if the attempts so far were not in vain.
    stop : Event, optional
        Ends a pause between attempts.

    Raises
    ------
    VainError
        When there were enough; the message says what the last one ended by.
    """
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_is_passing),
        stop=_Patience(attempts, progress),
        wait=_choose_wait,
        sleep=tenacity.sleep_using_event(stop or threading.Event()),
        reraise=True,
    )
    try:
        return retrying(attempt)
    except (Unsteady, OSError) as error:
        if not _is_passing(error):
            raise
        raise VainError(f"{what} cannot be {verb}: {error}{_explain_wait(error)}") from None


def _is_passing(error: BaseException) -> bool:
    """Tell whether an error is one of the network: those of our own disk name a file."""
    return isinstance(error, Unsteady) or (
        isinstance(error, OSError) and error.filename is None and not isinstance(error, DiskError)
    )


class VainError(SourceError):
    """All attempts failed, and later ones may not."""


class DiskError(OSError):
    """Something is wrong with the disk that is written to: to try again would be in vain."""


class _Patience(tenacity.stop.stop_base):
    """Ends when enough attempts in a row got nowhere, or one more would have to wait too long."""

    def __init__(self, attempts: int, progress: Callable[[], int]) -> None:
        self._attempts, self._progress = attempts, progress
        self._reached, self._vain = progress(), 0

    def __call__(self, state: tenacity.RetryCallState) -> bool:
        reached = self._progress()
        self._vain = 1 if reached > self._reached else self._vain + 1
        self._reached = max(reached, self._reached)
        return self._vain >= self._attempts or _ask_wait(state) > LONGEST


def _choose_wait(state: tenacity.RetryCallState) -> float:
    return _ask_wait(state) or _backoff(state)


def _ask_wait(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    return getattr(error, "after", None) or 0.0


def _explain_wait(error: Exception) -> str:
    after = getattr(error, "after", None) or 0.0
    return f"; it asks to wait {after:,.0f} seconds" if after > LONGEST else ""
