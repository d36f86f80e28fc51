"""The figures of a page: points and histograms, drawn as SVG, and thumbnails as PNG.

No text from files enters a figure: names of classes stand in the page around it, where they are
escaped, and Matplotlib never meets a character that its font lacks.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

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
_MOST_PIXELS = 320


@dataclass(frozen=True)
class Curve:
    """A receiver operating characteristic: false positive against true positive rates."""

    false_positive: Floats
    true_positive: Floats


@dataclass(frozen=True)
class ClassCurves:
    """The curve of one class on all predictions, and one of each fold."""

    pooled: Curve
    folds: tuple[Curve, ...]


@dataclass(frozen=True)
class Bin:
    """Predictions of nearly equal probability.

    Attributes
    ----------
    low, high : float
        Edges; the first bin includes its lower edge, every bin its upper one.
    images : int
    predicted, observed : float
        Mean probability, and the share of images for which the event came true; NaN where there
        is no image.
    """

    low: float
    high: float
    images: int
    predicted: float
    observed: float


@dataclass(frozen=True)
class Reliability:
    """Bins of equal width, and the expected calibration error over them."""

    bins: tuple[Bin, ...]
    error: float


def trace_roc(positive: npt.NDArray[np.bool_], scores: Floats) -> Curve | None:
    """Compute the curve of one class against the rest; equal scores are one step.

    Returns
    -------
    Curve or None
        None where there are only positives or only negatives. Points on a straight line between
        their neighbours are left out.
    """
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return None
    order = np.argsort(-scores, kind="stable")
    last_of_equal = np.append(np.diff(scores[order]) != 0, True)
    true = np.cumsum(positive[order])[last_of_equal]
    false = np.cumsum(~positive[order])[last_of_equal]
    true, false = np.insert(true, 0, 0), np.insert(false, 0, 0)
    keep = _find_corners(true, false)
    return Curve(false[keep] / negatives, true[keep] / positives)


def _find_corners(up: npt.NDArray[np.int64], right: npt.NDArray[np.int64]) -> Any:
    rise, run = np.diff(up), np.diff(right)
    return np.concatenate([[True], rise[:-1] * run[1:] != rise[1:] * run[:-1], [True]])


def measure_reliability(
    probabilities: Floats, came_true: npt.NDArray[np.bool_], bins: int = 10
) -> Reliability:
    """Compare stated probabilities with what happened.

    The error is the expected calibration error of Naeini et al. (AAAI 2015): the mean over bins
    of equal width of ``|predicted - observed|``, weighted by the number of images.

    Parameters
    ----------
    probabilities : ndarray of float64, shape (n,)
    came_true : ndarray of bool, shape (n,)
    bins : int
    """
    edges = np.linspace(0.0, 1.0, bins + 1)
    place = np.clip(np.searchsorted(edges, probabilities, side="left") - 1, 0, bins - 1)
    rows = []
    for number in range(bins):
        inside = place == number
        images = int(inside.sum())
        predicted = float(probabilities[inside].mean()) if images else float("nan")
        observed = float(came_true[inside].mean()) if images else float("nan")
        rows.append(Bin(edges[number], edges[number + 1], images, predicted, observed))
    gaps = sum(row.images * abs(row.predicted - row.observed) for row in rows if row.images)
    return Reliability(tuple(rows), float(gaps / max(len(probabilities), 1)))


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
        for number, of_class in enumerate(curves):
            look = {
                "color": _SERIES[number % COLOURS],
                "linestyle": _DASHES[number // COLOURS % len(_DASHES)],
            }
            for fold in of_class.folds:
                axes.plot(*_thin(fold), linewidth=0.7, alpha=0.35, **look)
            axes.plot(*_thin(of_class.pooled), linewidth=2, **look)
        _frame(axes, "False positive rate (1 − specificity)", "True positive rate (sensitivity)")

    return _draw(fill, (4.6, 4.6), key, title)


def _thin(curve: Curve) -> tuple[Floats, Floats]:
    points = len(curve.true_positive)
    keep = np.linspace(0, points - 1, min(points, _MOST_POINTS)).round().astype(int)
    return curve.false_positive[keep], curve.true_positive[keep]


def draw_reliability(reliability: Reliability, key: str, title: str, observed: str) -> str:
    """Draw predicted against observed shares, over the counts of images.

    Bins of fewer than ten images are hollow. ``key`` and ``title`` are as in `draw_roc`;
    ``observed`` names the vertical axis.
    """

    def fill(figure: Figure) -> None:
        axes = figure.add_axes((0.13, 0.32, 0.84, 0.65))
        axes.plot([0, 1], [0, 1], color=_RULE, linewidth=1, linestyle=(0, (4, 3)))
        filled = [row for row in reliability.bins if row.images]
        points = ([row.predicted for row in filled], [row.observed for row in filled])
        axes.plot(*points, color=_SERIES[0], linewidth=1.2, alpha=0.6)
        for row in filled:
            face = _SERIES[0] if row.images >= 10 else "none"
            axes.plot(
                row.predicted, row.observed, "o", markersize=6, color=_SERIES[0],
                markerfacecolor=face,
            )  # fmt: skip
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


def draw_thumbnail(codes: npt.NDArray[Any], box: Sequence[int] | None = None) -> str:
    """Make a picture for the eye of one image's stored codes.

    Grey is stretched between the 1st and the 99th percentile of the pixels inside ``box``; colour
    keeps its values.

    Parameters
    ----------
    codes : ndarray, shape (H, W) or (H, W, 3)
    box : (left, top, right, bottom), optional
        Where the image lies, in pixels.

    Returns
    -------
    str
        A ``data:`` URI of a PNG of 8 bits, at most 320 pixels wide and high.
    """
    import imagecodecs

    step = -(-max(codes.shape[:2]) // _MOST_PIXELS)
    seen = codes.astype(np.float64)
    left, top, right, bottom = box if box is not None else (0, 0, *codes.shape[1::-1])
    if codes.dtype == np.uint8 and codes.ndim == 3:
        low, high = 0.0, 255.0
    else:
        low, high = np.nanpercentile(seen[top:bottom, left:right], (1, 99))
    shown = (seen[::step, ::step] - low) / max(high - low, 1e-12)
    bytes_ = np.nan_to_num(np.clip(shown, 0, 1) * 255).round().astype(np.uint8)
    png = imagecodecs.png_encode(np.ascontiguousarray(bytes_), level=9)
    return "data:image/png;base64," + base64.b64encode(png).decode()
