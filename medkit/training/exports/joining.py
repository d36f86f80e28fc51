"""In the child process: the models of a run's folds as one network, written and read back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medkit.errors import TrainingError
from medkit.networks.hardware import load_keras
from medkit.statistics.labelwise import LabelHeads
from medkit.training.exports.runtimes import FORMS, INPUT, OUTPUT, Form
from medkit.training.head import LinearModel
from medkit.workspace import read_json, write_json

if TYPE_CHECKING:
    import keras

    from medkit.images.reader import Images
    from medkit.statistics.linear import LinearHead

Spec = Mapping[str, Any] | None
Floats = npt.NDArray[np.floating[Any]]

# Largest difference of a probability between what medkit predicts and what the runtime gives.
ALLOWED = 1e-4
# What a worker is told beside its job, and what it answers.
ORDER, ANSWER = "order.json", "answer.json"

_BATCH = 32
# In place of minus infinity, which some runtimes take for an error: the softmax of it is 0, too.
_NEVER = -1e9


def write_joined(
    folder: Path, trainer: Any, models: Sequence[Any], spec: Spec, images: Images, threads: int
) -> None:
    """Write the mean of some models as one, and compare what it gives with what they predict.

    Parameters
    ----------
    folder : Path
        Of the job: ``order.json`` there has the form and where to write.
    trainer : Trainer
        An instance with the run's options.
    models : sequence of Model
        As they were loaded.
    spec : mapping or None
        What the trainer says of its features.
    images : Images
        To compare on, with the trainer's features where it has any.
    threads : int
        For the runtime.

    Raises
    ------
    TrainingError
        If the models cannot be exported, or the runtime cannot run what was written or differs by
        more than `ALLOWED`.
    """
    order = read_json(folder / ORDER)
    form = FORMS[order["form"]]
    seen = images.with_view(**_find_view(trainer, models, spec))
    path = form.write(_join(trainer, models, seen.shape[1:]), Path(order["content"]))
    expected = np.mean([model.predict_proba(images) for model in models], axis=0)
    difference = _measure(_run(form, path, seen, threads), expected)
    if not difference <= ALLOWED:  # also if it is not a number
        raise TrainingError(
            f"the exported model differs from the run's: by {difference:.3g} in a probability on "
            f"{len(images)} images, and {ALLOWED:g} is allowed; nothing was kept"
        )
    answer = {"view": asdict(seen.view), "shape": seen.shape[1:], "difference": difference}
    write_json(folder / ANSWER, answer)


def _find_view(trainer: Any, models: Sequence[Any], spec: Spec) -> Mapping[str, Any]:
    """Return what the models see, and refuse what lacks a member that an export needs.

    See `medkit.training.contract.Trainer`.
    """
    if all(isinstance(model, LinearModel) for model in models):
        _require("trainer", trainer, "feature_network")
        return dict((spec or {}).get("view", {}))
    views = []
    for model in models:
        _require("model", model, "network", "view")
        views.append(dict(model.view))
    if any(view != views[0] for view in views):
        raise TrainingError("the models of the folds see different views; export one with --fold")
    return views[0]


def _require(what: str, thing: Any, *names: str) -> None:
    lacking = [repr(name) for name in names if not hasattr(thing, name)]
    if lacking:
        raise TrainingError(
            f"what this trainer made cannot be exported: its {what} has no "
            f"{' and no '.join(lacking)}; softmax, cnn and inception have what it takes"
        )


def _join(trainer: Any, models: Sequence[Any], shape: tuple[int, ...]) -> keras.Model:
    """Return one network from pixels to the mean of the models' probabilities."""
    keras = load_keras()
    pixels = keras.Input(shape, name=INPUT, dtype="float32")
    if all(isinstance(model, LinearModel) for model in models):
        features = trainer.feature_network()(pixels, training=False)
        parts = [_make_layer(model.head)(features) for model in models]
    else:
        parts = []
        for number, model in enumerate(models):
            # Of the same name in every fold; a network wants other ones for its parts.
            model.network.name = f"model_{number}"
            parts.append(model.network(pixels, training=False))
    mean = keras.layers.Average(name="mean")(parts) if len(parts) > 1 else parts[0]
    return keras.Model(pixels, {OUTPUT: mean})


def _make_layer(head: LinearHead | LabelHeads) -> keras.Layer:
    # Of several labels an image each has a probability of its own.
    last = "sigmoid" if isinstance(head, LabelHeads) else "softmax"
    layer = load_keras().layers.Dense(len(head.bias), activation=last, dtype="float32")
    layer.build((None, head.weights.shape[1]))
    bias = np.nan_to_num(head.bias, posinf=-_NEVER, neginf=_NEVER)
    layer.set_weights([head.weights.T.astype(np.float32), bias.astype(np.float32)])
    return layer


def _measure(found: Floats, expected: Floats) -> float:
    """Return the largest difference; NaN if they cannot be compared."""
    same = found.shape == expected.shape
    return float(np.abs(found - expected).max()) if same else math.nan


def _run(form: Form, path: Path, images: Images, threads: int) -> Floats:
    """Return what the form's own runtime gives, in batches of which the last one is shorter."""
    try:
        run = form.open(path, threads)
        return np.concatenate([run(batch) for batch in images.batches(_BATCH)])
    except Exception as error:  # each runtime has errors of its own
        raise TrainingError(f"the exported model does not run: {error}") from error
