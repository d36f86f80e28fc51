"""Net benefit (Vickers and Elkin, Medical Decision Making 26, 2006, 565), metric and section."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import medkit

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from medkit.evaluation.sections import Block, RunData, SectionWriter
    from medkit.statistics.outcomes import Outcomes
    from medkit.statistics.plugged import Metric

    Floats = npt.NDArray[np.float64]

_AT = (0.1, 0.2)
_CURVE = [number / 100 for number in range(1, 61)]
_SHOWN = (0.05, 0.1, 0.2, 0.3, 0.5)
_WIDTH, _HEIGHT, _LEFT, _TOP = 560, 300, 60, 10


@medkit.hookimpl
def medkit_metrics() -> list[Metric]:
    """Return net benefit at thresholds that are often asked for."""
    from medkit.statistics.plugged import Metric

    return [
        Metric(
            f"net_benefit_at_{100 * at:.0f}",
            partial(weigh_benefit, at=at),
            f"Net benefit at a threshold of {100 * at:.0f} %",
            low=-at / (1 - at),
            classes=2,
        )
        for at in _AT
    ]


@medkit.hookimpl
def medkit_section() -> SectionWriter:
    """Return what writes the section."""
    return write_section


def write_section(run: RunData) -> tuple[str, list[Block]]:
    """Return the decision curve of a run on two classes."""
    from medkit.evaluation.sections import Figure, Paragraph, Table

    if run.predictions is None or len(run.record["classes"]) != 2:
        return "Decision curve", [Paragraph("A decision curve is for two classes.")]
    positive = run.record["positive"] or run.record["classes"][1]
    truth = (run.predictions["label"] == positive).to_numpy()
    stated = run.predictions[f"p:{positive}"].to_numpy()
    everybody = [benefit(truth, stated + 2, at) for at in _CURVE]
    model = [benefit(truth, stated, at) for at in _CURVE]
    best = [
        at for at, own, all_ in zip(_CURVE, model, everybody, strict=True) if own > max(all_, 0)
    ]
    words = (
        f"between thresholds of {min(best):.0%} and {max(best):.0%}" if best else "at no threshold"
    )
    return "Decision curve", [
        Paragraph(
            f"Acting on the probability of {positive} does more good than treating everybody or "
            f"nobody {words}. The threshold is from where on one would treat: at 10 % a true "
            "positive is worth nine false ones. Probabilities are out of fold, as they were stated."
        ),
        Figure(
            draw({"model": model, "treat all": everybody, "treat none": [0.0] * len(_CURVE)}),
            "Net benefit of the model, of treating everybody and of treating nobody, over the "
            "threshold from 1 to 60 per cent; the table has its numbers",
            "Net benefit over the threshold probability",
        ),
        Table(
            "Net benefit at some thresholds",
            ["Threshold", "Model", "Treat everybody", "Treat nobody"],
            [
                [f"{at:.0%}", benefit(truth, stated, at), benefit(truth, stated + 2, at), 0.0]
                for at in _SHOWN
            ],
        ),
    ]


def weigh_benefit(outcomes: Outcomes, weights: Floats, at: float) -> Floats:
    """Return net benefit under r rows of weights."""
    truth = outcomes.labels == outcomes.positive
    return _weigh(truth, outcomes.probabilities[:, outcomes.positive], weights, at)


def benefit(truth: npt.NDArray[np.bool_], stated: Floats, at: float) -> float:
    """Return the net benefit of treating from a probability on."""
    import numpy as np

    return float(_weigh(truth, stated, np.ones((1, len(truth))), at)[0])


def _weigh(truth: npt.NDArray[np.bool_], stated: Floats, weights: Floats, at: float) -> Floats:
    treated = stated >= at
    right, wrong = weights @ (treated & truth), weights @ (treated & ~truth)
    found: Floats = (right - wrong * at / (1 - at)) / weights.sum(axis=1)
    return found


def draw(curves: dict[str, list[float]]) -> bytes:
    """Return curves over the threshold as SVG."""
    low, high = -0.05, max(max(max(curve) for curve in curves.values()), 0.05) * 1.1
    styles = ("stroke='#0a5bb0' stroke-width='2.5'", "stroke='#a14a00' stroke-dasharray='6 3'")
    styles = (*styles, "stroke='#555' stroke-dasharray='2 3'")

    def place(at: float, value: float) -> str:
        x = _LEFT + (_WIDTH - _LEFT - 10) * at / _CURVE[-1]
        return f"{x:.1f},{_TOP + (_HEIGHT - 50) * (high - value) / (high - low):.1f}"

    lines, words = [], []
    for number, ((name, curve), style) in enumerate(zip(curves.items(), styles, strict=True)):
        points = [place(at, v) for at, v in zip(_CURVE, curve, strict=True) if v >= low]
        lines.append(f"<polyline fill='none' {style} points='{' '.join(points)}'/>")
        y = _TOP + 16 * (number + 1)
        words.append(f"<line x1='420' x2='450' y1='{y}' y2='{y}' {style}/>")
        words.append(f"<text x='456' y='{y + 4}'>{name}</text>")
    step = 10 ** math.floor(math.log10(high))
    for value in (0.0, step, 2 * step, 5 * step):
        if value <= high:
            words.append(f"<text x='4' y='{place(0, value).split(',')[1]}'>{value:g}</text>")
    for at in (0.1, 0.2, 0.3, 0.4, 0.5):
        x = place(at, 0).split(",")[0]
        words.append(f"<text x='{x}' y='{_HEIGHT - 20}'>{at:.0%}</text>")
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {_WIDTH} {_HEIGHT}' "
        f"font-family='sans-serif' font-size='12'>{''.join(lines + words)}</svg>"
    ).encode()
