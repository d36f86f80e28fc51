"""How the values of a group of images are distributed, as a page shows it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medkit.evaluation.figures import Spans, draw_histogram
from medkit.evaluation.inventory import NOT_GIVEN, spell_value
from medkit.evaluation.survey import Group, Survey, Tally, find_step

Floats = npt.NDArray[np.float64]

_BINS = 120  # of a drawn histogram
_TAIL = 0.0005  # of the pixels, that a drawn histogram may leave out at each end
_SHARES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_MOST_RANGES = 3
_EVERY_IMAGE = "all"


def describe_group(
    group: Group, number: int, survey: Survey, table: pd.DataFrame, classes: Sequence[str] | None
) -> dict[str, Any]:
    """Return what the template shows of one group.

    Parameters
    ----------
    group : Group
    number : int
        Of the group, as the survey counts them.
    survey : Survey
    table : DataFrame
        Of the set, in the survey's order.
    classes : sequence of str, optional
        Of each image; those that the survey has a tally of are drawn one by one.
    """
    rows, measures = table.iloc[group.rows], survey.measures.iloc[group.rows]
    tallies = {name: tally for (of, name), tally in sorted(survey.tallies.items()) if of == number}
    pooled = Tally()
    for tally in tallies.values():
        pooled.merge(tally)
    split = classes is not None and len(tallies) > 1
    lines = tallies if split else {_EVERY_IMAGE: pooled}
    windows, ranges = _list_windows(rows), _list_ranges(rows)
    described = {
        "key": f"g{number}",
        "modality": group.modality or NOT_GIVEN,
        "units": group.units,
        "colour": group.colour,
        "array": group.array,
        "images": len(rows),
        "measured": int(measures["mean"].notna().sum()),
        "persons": int(rows["split_group"].nunique()),
        "windows": windows,
        "ranges": ranges,
        "padding": float(rows["padding_share"].mean()),
        "constant": int(rows["constant"].sum()),
        "levels": _describe_levels(group, rows, measures),
        "figure": None,
    }
    if not len(pooled.counts):
        return described
    spans = _arrange_spans(pooled, windows, ranges)
    return described | {
        "figure": _draw(
            cut_bins(pooled, *_find_levels(group, rows)), list(lines.values()), spans, number
        ),
        "legend": list(lines) if split else [],
        "least": spell_value(pooled.low),
        "most": spell_value(pooled.high),
        "percentiles": [
            (name, [spell_value(value) for value in tally.counted().percentiles(_SHARES)])
            for name, tally in [(_EVERY_IMAGE, pooled), *(lines.items() if split else ())]
        ],
        "shares": [f"{100 * share:g}\u202f%" for share in _SHARES],
        "width": spell_value(pooled.width),
    }


def _list_windows(rows: pd.DataFrame) -> list[dict[str, Any]]:
    listed = _count_pairs(rows, "WindowCenter", "WindowWidth", "none")
    for one in listed:
        if "pair" in one:
            centre, width = one["pair"]
            one["text"] = f"{spell_value(centre)} / {spell_value(width)}"
            if width > 0:
                one["range"] = centre - width / 2, centre + width / 2
    return listed


def _list_ranges(rows: pd.DataFrame) -> list[dict[str, Any]]:
    listed = _count_pairs(rows, "full_low", "full_high", "none: floating point")
    for one in listed:
        if "pair" in one:
            one["text"] = " to ".join(map(spell_value, one["pair"]))
            one["range"] = one["pair"]
    return listed


def _count_pairs(rows: pd.DataFrame, first: str, second: str, none: str) -> list[dict[str, Any]]:
    """Return the commonest pairs of numbers, then the rest together, and who has none."""
    pairs = Counter(rows[[first, second]].dropna().itertuples(index=False, name=None))
    found = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))
    listed: list[dict[str, Any]] = [
        {"pair": pair, "images": images} for pair, images in found[:_MOST_RANGES]
    ]
    more = len(found) - _MOST_RANGES
    rest = {
        f"{more:,} other{'' if more == 1 else 's'}": sum(
            images for _, images in found[_MOST_RANGES:]
        ),
        none: len(rows) - sum(pairs.values()),
    }
    return listed + [{"text": text, "images": images} for text, images in rest.items() if images]


def _describe_levels(
    group: Group, rows: pd.DataFrame, measures: pd.DataFrame
) -> dict[str, Any] | None:
    """Return how many of the values that a source can have occur in an image."""
    levels = measures["levels"].dropna()
    if levels.empty or group.colour:
        return None
    codes = ((rows["full_high"] - rows["full_low"]) / rows["slope"].abs()).dropna().round()
    alike = codes.nunique() == 1
    return {
        "median": int(levels.median()),
        "least": int(levels.min()),
        "most": int(levels.max()),
        "of": round(codes.iloc[0] / find_step(rows.iloc[0].to_dict())) + 1 if alike else None,
    }


def _arrange_spans(
    pooled: Tally, windows: list[dict[str, Any]], ranges: list[dict[str, Any]]
) -> Spans:
    low, high = pooled.counted().percentiles((0.01, 0.99))
    named = [("1 to 99 %", (float(low), float(high)))]
    named += [(f"window {i}", one["range"]) for i, one in enumerate(windows, 1) if "range" in one]
    named += [("range", one["range"]) for one in ranges[:1] if "range" in one]
    return Spans(tuple(name for name, _ in named), tuple(span for _, span in named))


def _draw(edges: Floats, tallies: Sequence[Tally], spans: Spans, number: int) -> str:
    title = "Histogram of the values; percentiles, windows and ranges are in the tables beside it"
    shares = [_share(tally, edges) for tally in tallies]
    return draw_histogram(edges, shares, spans, f"g{number}", title)


def _find_levels(group: Group, rows: pd.DataFrame) -> tuple[float, float]:
    """Return one value that codes of the group stand for, and the distance to the next; or 0, 0."""
    if group.array.startswith("float"):
        return 0.0, 0.0
    row = rows.iloc[int(np.argmax(rows["slope"].abs()))]
    return float(row["intercept"]), abs(float(row["slope"]))


def cut_bins(pooled: Tally, level: float, step: float) -> Floats:
    """Return edges of bins of one width over nearly all that was counted.

    Parameters
    ----------
    pooled : Tally
    level, step : float
        Where values come in steps, one of them and the step, else 0. Edges then lie between
        values, and every bin has the same number of them: else some would stand out by having
        one more.
    """
    low, high = (float(end) for end in pooled.counted().percentiles((_TAIL, 1 - _TAIL)))
    step = step or pooled.width
    across = max(high - low, step)
    width = step * math.ceil(across * 1.06 / _BINS / step)
    start = level - step / 2
    first = math.floor((low - 0.03 * across - start) / width)
    last = max(math.ceil((high + 0.03 * across - start) / width), first + 2)
    return np.asarray(np.arange(first, last + 1) * width + start, np.float64)


def _share(tally: Tally, edges: Floats) -> Floats:
    """Return the share of each bin in all that was counted, also beyond the edges."""
    counted = tally.counted()
    counts, _ = np.histogram(counted.values, edges, weights=counted.counts)
    shares: Floats = counts / max(counted.counts.sum(), 1)
    return shares
