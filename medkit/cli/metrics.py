"""``medkit metrics``, and how metrics are printed by the verbs that measure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from medkit.cli.options import HERE, JsonOption, WorkspaceOption
from medkit.cli.terminal import print_json, print_table, say
from medkit.workspace import Workspace

# In the tables of levels, subgroups and operating points.
_SHORT = ("balanced_accuracy", "auc", "sensitivity", "specificity")
_OF_A_CLASS = ("sensitivity", "specificity", "ppv", "npv", "f1", "auc", "average_precision")
_LEVELS = ("image", "series", "study", "person")
_AT_A_POINT = ("sensitivity", "specificity", "ppv", "npv")


def metrics(
    name: Annotated[str, typer.Argument(metavar="RUN", help="A finished run, or an evaluation.")],
    permutations: Annotated[
        int,
        typer.Option(
            "--permutations",
            metavar="N",
            min=0,
            help="Deal the labels out among persons N times, such as 1000, to see what luck gives.",
        ),
    ] = 0,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Print all that was measured of a run; docs/metrics.md says what it is.

    --permutations adds a test by person to metrics.json: could the number be luck?
    """
    from medkit.training.measurement import permute_labels, read_metrics

    home = Workspace(workspace)
    if permutations:
        with home.lock():
            found = permute_labels(home, name, permutations)
    else:
        found = read_metrics(home, name)
    if as_json:
        print_json(found)
        return
    print_metrics(name, found)
    for part in (_print_classes, _print_levels, _print_groups, _print_points, _print_rest):
        part(found)


def print_metrics(title: str, metrics: Mapping[str, Any]) -> None:
    """Print the headline, and each metric with its interval beside what guessing scores."""
    interval = metrics["interval"]
    baselines = metrics["baselines"]
    of = f", positive is {metrics['positive']}" if metrics["positive"] else ""
    print_table(
        f"{title}: {metrics['images']} images of {metrics['persons']} persons{of}",
        ("metric", "value", "low", "high", *(name.replace("_", " ") for name in baselines)),
        [
            (
                name.replace("_", " "),
                *_spell_entry(entry),
                *(_spell(values[name]) for values in baselines.values()),
            )
            for name, entry in ((name, metrics["metrics"][name]) for name in _order(metrics))
        ],
        note=f"low, high: {interval['level']:.0%} interval, {interval['covers']}",
    )
    shown = metrics.get("headline_interval") or {"shows": "persons"}
    if shown["shows"] == "procedure":
        say(
            f"{metrics['headline'].replace('_', ' ')} {_spell_range(shown)}: the procedure's "
            f"interval, which covers {shown['covers']}"
        )


def _order(metrics: Mapping[str, Any]) -> list[str]:
    """Return the metrics that there are, the headline first: JSON has them by the alphabet."""
    from medkit.statistics.metrics import NAMES

    names = [*NAMES, *metrics.get("plugged", ())]
    return [metrics["headline"]] + [
        name for name in names if name in metrics["metrics"] and name != metrics["headline"]
    ]


def _print_classes(metrics: Mapping[str, Any]) -> None:
    from medkit.statistics.truth import asks_several

    entries, several = metrics["per_class"], asks_several(metrics)
    names = [name for name in _OF_A_CLASS if name in next(iter(entries.values()))]
    print_table(
        "By label, each by itself" if several else "By class, against the others",
        (
            *("label" if several else "class", "images", "persons"),
            *(name.replace("_", " ") for name in names),
        ),
        [
            (
                name,
                one["images"],
                one["persons"],
                *(_spell(one[metric]["value"]) for metric in names),
            )
            for name, one in entries.items()
        ],
    )


def _print_levels(metrics: Mapping[str, Any]) -> None:
    found = metrics.get("levels") or {}
    levels = {name: found[name] for name in _LEVELS if found.get(name)}
    if not levels:
        return
    print_table(
        f"By level, images joined by {metrics['aggregation']['method']}",
        ("level", "n", "labels differ", *(name.replace("_", " ") for name in _SHORT)),
        [
            (name, one["n"], one["mixed"], *(_spell_range(one["metrics"][m]) for m in _SHORT))
            for name, one in levels.items()
        ],
    )


def _print_groups(metrics: Mapping[str, Any]) -> None:
    if not metrics.get("subgroups"):
        return
    print_table(
        "By subgroup",
        ("by", "value", "images", "persons", *(name.replace("_", " ") for name in _SHORT)),
        [
            (
                *(one[name] for name in ("by", "value", "images", "persons")),
                *(_spell_range(one["metrics"][metric]) for metric in _SHORT),
            )
            for one in metrics["subgroups"]
        ],
        note="many comparisons: of twenty equal groups one looks different by chance",
    )


def _print_points(metrics: Mapping[str, Any]) -> None:
    if not metrics.get("operating_points"):
        return
    print_table(
        "Operating points, each fold by the threshold of the others",
        ("rule", "thresholds", *_AT_A_POINT),
        [
            (
                ": ".join(filter(None, (one.get("label"), one["rule"]))),
                f"{min(one['thresholds']):.3f} to {max(one['thresholds']):.3f}",
                *(_spell_range(one[name]) for name in _AT_A_POINT),
            )
            for one in metrics["operating_points"]
        ],
    )


def _print_rest(metrics: Mapping[str, Any]) -> None:
    if found := metrics.get("procedure"):
        say(
            f"the procedure's interval of {found['metric'].replace('_', ' ')} is "
            f"{_spell_range(found)}, {found['factor']:.2f} times as wide: {found['method']}"
        )
    if found := metrics.get("delong"):
        say(f"AUC without resampling: {_spell_range(found)}, {found['method']}")
    if found := metrics.get("optimism"):
        parts = ", ".join(f"{name} {_spell(found[name])}" for name in ("best", "chosen", "test"))
        say(
            f"{found['looks']} looks at validation parts, {found['metric'].replace('_', ' ')}: "
            f"{parts}; optimism {_spell(found['optimism'])}"
        )
    if found := metrics.get("permutation"):
        for name, one in found["metrics"].items():
            say(
                f"permutation test of {name.replace('_', ' ')}, mean over folds: "
                f"{_spell(one['value'])}, p = {one['p']:.2g} of {found['permutations']} deals; "
                f"luck gives up to {_spell(one['null']['high'])} in 95 %"
            )
    for note in metrics["notes"]:
        say(f"note: {note}")


def print_repeats(summary: Mapping[str, Any]) -> None:
    """Print what repeats of one cross-validation say together."""
    runs = summary["runs"]
    parts = ("value", "low", "high", "deviation", "least", "most")
    print_table(
        f"{summary['trainer']}, {len(runs)} repeats: mean over {', '.join(runs)}",
        ("metric", "mean", *parts[1:]),
        [
            (name.replace("_", " "), *(_spell(entry[part]) for part in parts))
            for name, entry in summary["metrics"].items()
        ],
        note=f"low, high: {summary['interval']['level']:.0%} interval, "
        f"{summary['interval']['covers']}",
    )
    say(f"the summary is in {summary['path']}")


def _spell_entry(entry: Mapping[str, Any]) -> list[str]:
    return [_spell(entry[part]) for part in ("value", "low", "high")]


def _spell_range(entry: Mapping[str, Any]) -> str:
    value, low, high = _spell_entry(entry)
    return f"{value} ({low}–{high})" if low else value or "none"


def _spell(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
