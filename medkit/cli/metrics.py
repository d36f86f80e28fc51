"""How metrics are printed by the verbs that measure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medkit.cli.terminal import print_table


def print_metrics(title: str, metrics: Mapping[str, Any]) -> None:
    """Print each metric with its interval, beside what guessing scores."""
    interval = metrics["interval"]
    baselines = metrics["baselines"]
    of = f", positive is {metrics['positive']}" if metrics["positive"] else ""
    print_table(
        f"{title}: {metrics['images']} images of {metrics['persons']} persons{of}",
        ("metric", "value", "low", "high", *(name.replace("_", " ") for name in baselines)),
        [
            (
                name.replace("_", " "),
                *(_spell(entry[part]) for part in ("value", "low", "high")),
                *(_spell(values[name]) for values in baselines.values()),
            )
            for name, entry in sorted(
                metrics["metrics"].items(), key=lambda item: item[0] != metrics["headline"]
            )
        ],
        note=f"low, high: {interval['level']:.0%} interval, {interval['covers']}",
    )


def _spell(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
