"""The page that stands beside an exported model: what it takes, gives, and how it is run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from medkit import __version__
from medkit.statistics.metrics import SMALLEST_PROBABILITY
from medkit.statistics.truth import asks_several
from medkit.text import reveal

_SAVED_MODEL = """\
    import numpy as np
    import tensorflow as tf

    model = tf.saved_model.load("savedmodel")
    pixels = np.zeros({shape}, np.float32)  # yours
    infer = model.signatures["serving_default"]
    probabilities = infer(pixels=tf.constant(pixels))["probabilities"].numpy()
"""
_ONNX = """\
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    pixels = np.zeros({shape}, np.float32)  # yours
    (probabilities,) = session.run(["probabilities"], {{"pixels": pixels}})
"""
_LITERT = """\
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(model_path="model.tflite").get_signature_runner()
    pixels = np.zeros({shape}, np.float32)  # yours
    probabilities = run(pixels=pixels)["probabilities"]
"""
# How a model of each form is run without medkit.
SNIPPETS = {"savedmodel": _SAVED_MODEL, "onnx": _ONNX, "litert": _LITERT}

CALIBRATE = """\
    logits = np.log(np.maximum(probabilities.astype(np.float64), {least})) / {temperature}
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    calibrated = odds / odds.sum(axis=1, keepdims=True)
"""
# Of several labels an image, each with a temperature of its own.
CALIBRATE_LABELS = """\
    stated = np.clip(probabilities.astype(np.float64), {least}, 1 - {least})
    calibrated = 1 / (1 + (1 / stated - 1) ** (1 / np.array({temperature})))
"""
PIXELS = """\
    from pathlib import Path

    from medkit import ImageSet

    images = ImageSet.open(Path("WORKSPACE/sets/NAME")).images()
    pixels = images.with_view({view})[:]
"""

_PAGE = """\
# {run}: {count} of the trainer {plugin} as one model

Written by medkit {medkit}. `model.json` says the same for programs.

## What it takes

`pixels`: float32, shape {shape}: images, rows, columns, channels.
Window `{window}`, values from {low:g} to {high:g}. **The model is only as right as its pixels**:
window, size and scale must be those it was trained with. medkit gives them of a set that was
normalised with the `recipe` in `model.json`:

{pixels}
## What it gives

`probabilities`: float32, shape (n, {number}), {rows}. The columns, in order:

{classes}

## How to run it

{snippet}
## Calibration

{calibration}
## What was checked

It was run in its own runtime on {images} images of the run: no probability differs from what medkit
predicts by more than {difference:.1e}; {allowed:g} is allowed. `sha256sum -c SHA256SUMS` checks
the files.

On persons that it was trained on this model is surer than on others. It is no medical device.
"""
_CALIBRATED = """\
The probabilities are the models' own. Calibrated with the temperature that the run fitted, {value}:

{snippet}"""
_AS_IT_IS = """\
The run fitted the temperature 1: the probabilities are as they are.
"""


def write_readme(record: Mapping[str, Any]) -> str:
    """Return the page for what ``model.json`` says."""
    view, shape = record["view"], record["input"]["shape"]
    heat = record["calibration"]["temperature"]
    return _PAGE.format(
        run=record["run"],
        count=_count(record["folds"]),
        plugin=record["plugin"],
        medkit=__version__,
        shape=f"({', '.join(map(str, shape))})",
        window=view["window"],
        low=view["scale"][0],
        high=view["scale"][1],
        pixels=PIXELS.format(view=_spell(view)),
        number=len(record["classes"]),
        rows="each of a label by itself" if asks_several(record) else "rows summing to 1",
        classes="\n".join(f"    {_quote(name)}" for name in record["classes"]),
        snippet=SNIPPETS[record["form"]].format(shape=tuple([1, *shape[1:]])),
        calibration=_explain(heat),
        images=record["parity"]["images"],
        difference=record["parity"]["largest_difference"],
        allowed=record["parity"]["allowed"],
    )


def _count(folds: list[int]) -> str:
    if len(folds) == 1:
        return f"the model of fold {folds[0]}"
    return f"the mean of the {len(folds)} models"


def _explain(temperature: float | list[float]) -> str:
    if isinstance(temperature, list):
        snippet = CALIBRATE_LABELS.format(least=SMALLEST_PROBABILITY, temperature=temperature)
        told = ", ".join(f"{one:.4g}" for one in temperature)
        return _CALIBRATED.format(value=told, snippet=snippet)
    if temperature == 1:
        return _AS_IT_IS
    snippet = CALIBRATE.format(least=SMALLEST_PROBABILITY, temperature=temperature)
    return _CALIBRATED.format(value=f"{temperature:.4g}", snippet=snippet)


def _spell(view: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in view.items())


def _quote(name: str) -> str:
    """Return a class as a JSON text: it comes from a table of labels, and may hold anything."""
    return reveal(json.dumps(name, ensure_ascii=False))
