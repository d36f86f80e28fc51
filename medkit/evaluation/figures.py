"""The figures of a page: curves, points and histograms, drawn as SVG.

No text from files enters a figure: names of classes stand in the page around it, where they are
escaped, and Matplotlib never meets a character that its font lacks.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medkit.evaluation.curves import ClassCurves, Curve, Reliability

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]

COLOURS = 8
_INK = "#010101"
_RULE = "#020202"
_SERIES = [f"#0300{number:02x}" for number in range(COLOURS)]
# The page owns the colours, for light and dark: the SVG names them as CSS variables.
_VARIABLES = {_INK: "var(--ink)", _RULE: "var(--rule)"} | {
    colour: f"var(--c{number})" for number, colour in enumerate(_SERIES)
}
_DASHES: list[Any] = ["-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5))]
_STYLE = {
    "svg.fonttype": "none",  # text stays text: small, selectable, and set in the page's font
    "svg.hashsalt": "medkit",  # else ids are random and equal figures are unequal bytes
    "text.parse_math": False,
    "font.size": 10,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _INK,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _RULE,
    "grid.linewidth": 0.5,
    "xtick.color": _RULE,
    "ytick.color": _RULE,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
}
_MOST_POINTS = 400


def draw_roc(curves: Sequence[ClassCurves], key: str, title: str) -> str:
    """Draw the curves of classes, the i-th in colour ``i % COLOURS``.

    Parameters
    ----------
    curves : sequence of ClassCurves
    key : str
        Put before every id of the SVG: unique on the page.
    title : str
        What a screen reader says; not escaped, so of this program's own words only.

    Returns
    -------
    str
        An ``<svg>`` element whose colours are the CSS variables ``--ink``, ``--rule``, ``--c0``...
    """

    def fill(figure: Figure) -> None:
        axes = figure.add_axes((0.13, 0.13, 0.84, 0.84))
        axes.plot([0, 1], [0, 1], color=_RULE, linewidth=1, linestyle=(0, (4, 3)))
        _draw_classes(axes, curves)
        _frame(axes, "False positive rate (1 − specificity)", "True positive rate (sensitivity)")

    return _draw(fill, (4.6, 4.6), key, title)


def draw_precision(
    curves: Sequence[ClassCurves], prevalence: float | None, key: str, title: str
) -> str:
    """Draw precision over recall; a dashed line is the precision of guessing, where it is one.

    The other parameters are those of `draw_roc`.
    """

    def fill(figure: Figure) -> None:
        axes = figure.add_axes((0.13, 0.13, 0.84, 0.84))
        if prevalence is not None:
            axes.axhline(prevalence, color=_RULE, linewidth=1, linestyle=(0, (4, 3)))
        _draw_classes(axes, curves)
        _frame(axes, "Recall (sensitivity)", "Precision (positive predictive value)")

    return _draw(fill, (4.6, 4.6), key, title)


def _draw_classes(axes: Axes, curves: Sequence[ClassCurves]) -> None:
    for number, of_class in enumerate(curves):
        look = {
            "color": _SERIES[number % COLOURS],
            "linestyle": _DASHES[number // COLOURS % len(_DASHES)],
        }
        if of_class.band is not None:
            band = of_class.band
            axes.fill_between(
                band.x, band.low, band.high, color=look["color"], alpha=0.2, linewidth=0
            )
        for fold in of_class.folds:
            axes.plot(*_thin(fold), linewidth=0.7, alpha=0.35, **look)
        axes.plot(*_thin(of_class.pooled), linewidth=2, **look)


def _thin(curve: Curve) -> tuple[Floats, Floats]:
    points = len(curve.x)
    keep = np.linspace(0, points - 1, min(points, _MOST_POINTS)).round().astype(int)
    return curve.x[keep], curve.y[keep]


def draw_reliability(reliability: Reliability, key: str, title: str, observed: str) -> str:
    """Draw predicted against observed shares, over the counts of images.

    Bins of fewer than ten images are hollow. ``key`` and ``title`` are as in `draw_roc`;
    ``observed`` names the vertical axis.
    """

    def fill(figure: Figure) -> None:
        axes = figure.add_axes((0.13, 0.32, 0.84, 0.65))
        axes.plot([0, 1], [0, 1], color=_RULE, linewidth=1, linestyle=(0, (4, 3)))
        if (band := reliability.band) is not None:
            axes.vlines(band.x, band.low, band.high, color=_SERIES[0], linewidth=4, alpha=0.3)
        filled = [row for row in reliability.bins if row.images]
        xs, ys = (
            np.array([getattr(row, name) for row in filled]) for name in ("predicted", "observed")
        )
        axes.plot(xs, ys, color=_SERIES[0], linewidth=1.2, alpha=0.6)
        for row, x, y in zip(filled, xs, ys, strict=True):
            face = _SERIES[0] if row.images >= 10 else "none"
            axes.plot(x, y, "o", markersize=5, color=_SERIES[0], markerfacecolor=face)
        _frame(axes, "", observed)
        axes.tick_params(labelbottom=False)
        _draw_counts(figure, reliability)

    return _draw(fill, (4.6, 4.6), key, title)


def _draw_counts(figure: Figure, reliability: Reliability) -> None:
    from matplotlib.ticker import MaxNLocator

    axes = figure.add_axes((0.13, 0.11, 0.84, 0.16))
    lows = [row.low for row in reliability.bins]
    axes.bar(
        lows, [row.images for row in reliability.bins], width=1 / len(lows), align="edge",
        color=_SERIES[0], alpha=0.55, linewidth=0,
    )  # fmt: skip
    axes.set(xlim=(-0.02, 1.02), xlabel="Predicted probability", ylabel="Images")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=2, integer=True))
    axes.yaxis.set_label_coords(-0.125, 0.5)  # in one place, however long the numbers are


@dataclass(frozen=True)
class Spans:
    """Ranges of values, drawn under a histogram as bars with a name of this program's own words."""

    names: tuple[str, ...]
    ranges: tuple[tuple[float, float], ...]


def draw_histogram(
    edges: Floats, shares: Sequence[Floats], spans: Spans, key: str, title: str
) -> str:
    """Draw how often values occur, on a logarithmic scale, and ranges of values under it.

    Parameters
    ----------
    edges : ndarray of float64, shape (bins + 1,)
    shares : sequence of ndarray of float64, shape (bins,)
        One alone is filled; of several, the i-th is a line in colour ``i % COLOURS``.
    spans : Spans
        What lies beyond the edges is cut off.
    key, title : str
        As in `draw_roc`.
    """

    def fill(figure: Figure) -> None:
        deep = 0.055 * len(spans.names)
        axes = figure.add_axes((0.21, 0.19 + deep, 0.74, 0.79 - deep))
        for number, share in enumerate(shares):
            look = {
                "color": _SERIES[number % COLOURS],
                "linestyle": _DASHES[number // COLOURS % len(_DASHES)],
            }
            axes.stairs(np.where(share > 0, share, np.nan), edges, linewidth=1.3, **look)
            if len(shares) == 1:
                axes.stairs(share, edges, fill=True, alpha=0.3, color=look["color"], linewidth=0)
        _scale_shares(axes, shares)
        axes.set_xlim(edges[0], edges[-1])
        axes.tick_params(labelbottom=False)
        _draw_spans(figure.add_axes((0.21, 0.13, 0.74, 0.035 + deep), sharex=axes), spans)

    return _draw(fill, (4.6, 3.4), key, title)


def _scale_shares(axes: Axes, shares: Sequence[Floats]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    seen = np.concatenate([share[share > 0] for share in shares] or [np.ones(1)])
    least = max(float(seen.min()), 1e-6)
    axes.set_yscale("log")
    axes.set_ylim(0.7 * least, min(1.5 * float(seen.max()), 1.05))
    axes.yaxis.set_major_locator(LogLocator(numticks=6))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    axes.set_ylabel("Share of pixels")
    axes.yaxis.set_label_coords(-0.235, 0.5)  # in one place, however long the numbers are
    axes.grid(True)


def _draw_spans(axes: Axes, spans: Spans) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    left, right = axes.get_xlim()
    for place, (low, high) in enumerate(spans.ranges):
        if high >= left and low <= right:
            ends = max(low, left), min(high, right)
            axes.plot(ends, (place, place), color=_SERIES[7], linewidth=5, solid_capstyle="butt")
    axes.set_ylim(len(spans.names) - 0.4, -0.6)
    axes.set_yticks(range(len(spans.names)), spans.names)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(True, axis="x")
    axes.set_xlabel("Real-world value")


def _frame(axes: Axes, horizontal: str, vertical: str) -> None:
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=horizontal, ylabel=vertical)
    axes.grid(True)


def _draw(fill: Any, size: tuple[float, float], key: str, title: str) -> str:
    # Figure and canvas without pyplot: no state is shared, and no window system is looked for.
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", _STYLE], after_reset=True), io.StringIO() as text:
        figure = Figure(figsize=size)
        fill(figure)
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(text, format="svg", metadata=no_metadata, transparent=True)
        return _embed(text.getvalue(), key, title)


def _embed(svg: str, key: str, title: str) -> str:
    """Turn a file of Matplotlib's into an element that shares a page with others."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r"font-family: [^;]*; ?", "", svg)
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{key}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
