"""Metrics of plugins: measured, resampled and reported as medkit's own.

Which plugins a run has is declared when it is started (``train --metrics NAME``): a metric that is
chosen when the predictions are known is chosen for what it says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from medkit.errors import PluginError
from medkit.plugins import find_plugin, load_plugin
from medkit.statistics.metrics import NAMES

if TYPE_CHECKING:
    from medkit.statistics.outcomes import Outcomes

Floats = npt.NDArray[np.float64]

_NAME = re.compile("[a-z][a-z0-9_]{0,39}")


@dataclass(frozen=True)
class Metric:
    """A number that says how good predictions are.

    Attributes
    ----------
    name : str
        Lower-case letters, digits and ``_``; the name of no metric of medkit.
    measure : callable
        Takes `Outcomes` of n images, and weights of shape (r, n), which are whole numbers where
        persons are drawn anew. Returns r numbers, NaN where the weights leave none. It is called
        with the images of subgroups, folds and larger units too, and keeps nothing.
    title : str
        For tables; it says what is best where that is not the largest number.
    better : str
        ``"higher"`` or ``"lower"``.
    low, high : float
        What it can be; an interval does not leave that.
    classes : int or None
        How many classes it is for: 2, or any. Of several labels an image it is then the mean over
        the labels, each a question of two classes.
    """

    name: str
    measure: Callable[[Outcomes, Floats], npt.ArrayLike]
    title: str
    better: Literal["higher", "lower"] = "higher"
    low: float = 0.0
    high: float = 1.0
    classes: Literal[2] | None = None

    def fits(self, outcomes: Outcomes) -> bool:
        """Tell whether it is for such outcomes."""
        return outcomes.multilabel or self.classes in (None, len(outcomes.classes))

    def weigh(self, outcomes: Outcomes, weights: Floats) -> Floats:
        """Return it under weights of shape (n,) or (r, n): a number, or r of them.

        Raises
        ------
        PluginError
            If the plugin fails, or gives something else.
        """
        if outcomes.multilabel:
            asked = [outcomes.ask(column) for column in range(len(outcomes.classes))]
            told = [(rows, one) for rows, one in asked if len(np.unique(one.labels)) == 2]
            each = [self.weigh(one, weights[..., rows]) for rows, one in told]
            return np.mean(each, axis=0) if each else np.full(weights.shape[:-1], np.nan)
        rows = np.atleast_2d(weights)
        try:
            values = np.asarray(self.measure(outcomes, rows), dtype=np.float64)
        except Exception as error:  # whatever a plugin raises is the plugin's fault
            raise PluginError(
                f"the metric {self.name!r} failed: {type(error).__name__}: {error}"
            ) from error
        if values.shape != rows.shape[:1]:
            raise PluginError(
                f"the metric {self.name!r} gave values of the shape {values.shape} for weights of "
                f"{rows.shape}; it is to give one a row"
            )
        return values.reshape(weights.shape[:-1])


def load_metrics(plugins: Sequence[str]) -> tuple[Metric, ...]:
    """Import the plugins of these names, and return their metrics.

    Raises
    ------
    UsageError
        If no plugin has such a name.
    PluginError
        If one cannot be imported, gives something else, or a metric of a name that is taken.
    """
    found: dict[str, Metric] = {}
    for plugin in plugins:
        given = load_plugin("metric", plugin)
        origin = find_plugin("metric", plugin).origin
        if not isinstance(given, list | tuple) or not all(isinstance(one, Metric) for one in given):
            raise PluginError(
                f"the plugin {plugin!r} ({origin}) adds no metrics: it gave {given!r}, and a list "
                "of medkit.statistics.plugged.Metric is wanted"
            )
        for metric in given:
            taken = metric.name in found or metric.name in NAMES
            if taken or not _NAME.fullmatch(metric.name):
                why = "is taken" if taken else "is none: use lower-case letters, digits and _"
                raise PluginError(f"{plugin!r} ({origin}): the name {metric.name!r} {why}")
            found[metric.name] = metric
    return tuple(found.values())


def describe_plugged(metrics: Sequence[Metric]) -> dict[str, Mapping[str, Any]]:
    """Return how metrics are to be read, as ``metrics.json`` has it."""
    return {
        one.name: {
            **{"title": one.title, "better": one.better},
            "range": [end if np.isfinite(end) else None for end in (one.low, one.high)],
        }
        for one in metrics
    }
