"""How a run stands while it goes on: which fold, how fast, how long still.

A `Outlook` is moved by the events of a run's children (`medkit.training.course.Watcher`) and says
in a line what a person wants to know.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from medkit.training.child import Event

_LEAST = 0.002  # share of a run that must have been seen before its speed says anything


@dataclass
class Outlook:
    """What is known of a run that goes on.

    Attributes
    ----------
    clock : callable
        Returns seconds.
    total : int
        Folds of the run; 0 until it is known.
    settled : int
        Folds that are done or have failed.
    running : dict
        Of each fold that is being fitted, what was last said of it.
    """

    clock: Callable[[], float] = time.monotonic
    total: int = 0
    settled: int = 0
    running: dict[int, dict[str, Any]] = field(default_factory=dict)
    _first: tuple[float, float] | None = None

    def watch(self, event: Event) -> None:
        """Take note of an event."""
        kind, fold = event["event"], event.get("fold")
        if kind == "begun":
            self.total, self.settled = event["folds"], event["settled"]
        elif kind == "started" and fold is not None:
            self.running[fold] = {}
            self._first = self._first or (self.clock(), self.share)
        elif kind == "settled" and fold is not None:
            self.running.pop(fold, None)
            self.settled += 1
        elif kind == "progress" and fold in self.running:
            self.running[fold]["share"] = event["done"] / max(1, event["total"])
        elif kind == "status" and fold in self.running:
            self.running[fold].update(event["facts"])

    @property
    def share(self) -> float:
        """How much of the run is done, 0 to 1."""
        inside = sum(_share(facts) for facts in self.running.values())
        return (self.settled + inside) / max(1, self.total)

    @property
    def left(self) -> float | None:
        """Seconds until the end at the speed so far; None where nothing can be said."""
        if self._first is None:
            return None
        began, before = self._first
        done = self.share - before
        return None if done < _LEAST else (self.clock() - began) * (1 - self.share) / done

    def describe(self) -> str:
        """Return the state of each fold that is being fitted, in words."""
        return "; ".join(
            ", ".join([f"fold {fold + 1} of {self.total}", *_describe(facts)])
            for fold, facts in sorted(self.running.items())
        )


def _share(facts: dict[str, Any]) -> float:
    """Return how much of a fold is done: what the trainer counts, or else its epochs."""
    if "share" in facts:
        return float(facts["share"])
    return facts.get("epoch", 0) / facts["epochs"] if facts.get("epochs") else 0.0


def _describe(facts: dict[str, Any]) -> list[str]:
    words = []
    if "epoch" in facts:
        of = f" of {facts['epochs']:.0f}" if facts.get("epochs") else ""
        words.append(f"epoch {facts['epoch'] + 1:.0f}{of}")
    for name, form in _FORMS.items():
        if facts.get(name) is not None:
            words.append(form.format(facts[name]))
    return words


_FORMS = {
    "loss": "loss {:.3f}",
    "validation_loss": "validation {:.3f}",
    "images_per_second": "{:,.0f} images/s",
    "batch_size": "batch {:.0f}",
}
