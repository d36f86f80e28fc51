"""One summary of a trainer that was cross-validated several times, each with other folds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from medkit.errors import UsageError
from medkit.evaluation.evidence import Evidence, read_evidence
from medkit.evaluation.pairing import align_runs
from medkit.statistics.intervals import LEVEL
from medkit.statistics.metrics import NAMES, Floats, Measured
from medkit.statistics.outcomes import Notes, estimate
from medkit.statistics.summary import METHOD
from medkit.workspace import Workspace, hash_json, write_json

_DRAWS = 2000
_NUMBER = re.compile(r"-r\d+$")  # what `medkit train --repeats` ends the name of a run in

COVERS = (
    "how much the mean over repeats would vary if these same models were tested on other persons "
    "of the same kind. The standard deviation is between repeats: what dealing the folds, and what "
    "is random in training, make of the same persons. Neither covers training on other persons."
)


def summarise_repeats(runs: Sequence[Evidence]) -> dict[str, Any]:
    """Return what several cross-validations of the same persons say together.

    Parameters
    ----------
    runs : sequence of Evidence
        Finished runs of one trainer on one set and label, with other seeds.

    Returns
    -------
    dict
        ``metrics`` has for each name the values, their mean with the interval of a person
        bootstrap in which every repeat is scored on the same resamples, their standard deviation,
        least and most.

    Raises
    ------
    UsageError
        If they are not of the same images and classes.
    """
    require_repeats(runs)
    outcomes = align_runs(runs)

    prepared = [one.prepare() for one in outcomes]

    def average(weights: Floats) -> Measured:
        every = [weighed(weights).metrics for weighed in prepared]
        return Measured(
            {name: np.mean([each[name] for each in every], axis=0) for name in NAMES}, {}
        )

    means = estimate(average, outcomes[0].persons, runs[0].run["seed"], _DRAWS).describe(Notes())
    points = [one.measure().metrics for one in outcomes]
    return {
        "runs": [one.name for one in runs],
        "seeds": [one.run["seed"] for one in runs],
        "trainer": runs[0].run["plugin"],
        "images": len(outcomes[0].labels),
        "persons": outcomes[0].people,
        "metrics": {
            name: {**mean, **_spread([float(point[name]) for point in points])}
            for name, mean in means.items()
        },
        "interval": {
            "level": LEVEL,
            "method": f"{METHOD}, of the mean over repeats",
            "resamples": _DRAWS,
            "covers": COVERS,
        },
    }


def write_repeats(names: Sequence[str], workspace: Workspace) -> dict[str, Any]:
    """Write the summary of some runs beside their reports, and return it with its ``path``."""
    summary = summarise_repeats([read_evidence(workspace.run(name), workspace) for name in names])
    path = workspace.report(f"repeats-{hash_json(list(names))}").with_suffix(".json")
    write_json(path, summary)
    return {**summary, "path": str(path)}


# What repeats of one another have in common.
_ALIKE = ("plugin", "params", "set_id", "label", "classes", "positive", "k")


def group_repeats(runs: Sequence[Evidence]) -> dict[str, list[Evidence]]:
    """Return families of runs that differ in nothing but the seed, in the order of their seeds.

    A family is called as what the names of its runs begin with, or else as the first of them.
    """
    alike: dict[str, list[Evidence]] = {}
    for run in sorted(runs, key=lambda run: int(run.run["seed"])):
        alike.setdefault(hash_json([run.run[name] for name in _ALIKE]), []).append(run)
    order = sorted(alike.values(), key=lambda family: min(map(list(runs).index, family)))
    named = {_name(family): family for family in order}
    return named if len(named) == len(order) else {family[0].name: family for family in order}


def _name(family: Sequence[Evidence]) -> str:
    stems = {_NUMBER.sub("", run.name) for run in family}
    return stems.pop() if len(stems) == 1 and len(family) > 1 else family[0].name


def find_repeats(name: str, workspace: Workspace) -> list[str]:
    """Return the runs that a name means: itself, or those of ``--repeats`` that begin with it."""
    known = workspace.names("runs")
    if name in known:
        return [name]
    numbered = re.compile(re.escape(name) + _NUMBER.pattern)
    found = sorted((run for run in known if numbered.fullmatch(run)), key=_count_up)
    return found or [name]


def _count_up(run: str) -> int:
    return int(run.rpartition("-r")[2])


def require_repeats(runs: Sequence[Evidence]) -> None:
    """Raise UsageError if runs are anything but repeats of one another."""
    for name in _ALIKE:
        found = [one.run[name] for one in runs]
        if any(value != found[0] for value in found):
            shown = ", ".join(f"{one.name} {one.run[name]}" for one in runs)
            raise UsageError(f"repeats differ in nothing but the seed; {name}: {shown}")


def _spread(values: list[float]) -> dict[str, Any]:
    """Return how far repeats are from one another; what does not exist in one is None in all."""
    if not np.isfinite(values).all():
        return dict.fromkeys(("values", "deviation", "least", "most"))
    return {
        "values": values,
        "deviation": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "least": min(values),
        "most": max(values),
    }
