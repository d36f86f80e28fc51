"""Fine-tuning: a head on frozen features first, then the top blocks with it at a low rate."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medkit.networks.augmentation import Augmentation
from medkit.networks.fitting import Plan, Stage, fit_network
from medkit.networks.prediction import predict
from medkit.networks.saving import load_weights, read_description, save_network
from medkit_inception.network import build_classifier, train_blocks

if TYPE_CHECKING:
    import keras
    import numpy as np
    import numpy.typing as npt

    from medkit.images.reader import Images
    from medkit.training.contract import LabelledImages, RunContext
    from medkit_inception import InceptionParams
    from medkit_inception.weights import Weights


class InceptionModel:
    """A fine-tuned network and the view it was trained on.

    Parameters
    ----------
    network : keras.Model
        From pixels of the view (n, H, W, 3) to probabilities (n, classes).
    layer : str
        Whose maps the head sees.
    view : dict
        Keywords of ``images.with_view``.
    """

    def __init__(self, network: keras.Model, layer: str, view: dict[str, Any]) -> None:
        self.network = network
        self.layer = layer
        self.view = view

    def predict_proba(self, images: Images) -> npt.NDArray[np.float64]:
        """Return an array (n, classes) whose rows sum to 1 unless an image has several labels."""
        return predict(self.network, images.with_view(**self.view))

    def save(self, folder: Path) -> None:
        """Write the description as JSON and the weights as HDF5."""
        save_network(folder, {"layer": self.layer, "view": self.view}, self.network)


def fit_model(
    params: InceptionParams,
    weights: Weights,
    train: LabelledImages,
    validation: LabelledImages,
    run: RunContext,
) -> InceptionModel:
    """Train in two stages, or go on where a kill ended it; see `fit_network`."""
    return InceptionModel(
        fit_network(make_plan(params, weights), train, validation, run), params.layer, params.view
    )


def make_plan(params: InceptionParams, weights: Weights) -> Plan:
    """Return what is trained, and how."""
    build = partial(build_classifier, layer=params.layer, dropout=params.dropout, weights=weights)
    return Plan(
        build=build,
        view=params.view,
        stages=_plan_stages(params),
        batch_size=params.batch_size,
        class_weights=params.class_weights,
        augmentation=Augmentation(
            shift=params.shift,
            rotate=params.rotate,
            zoom=params.zoom,
            intensity=params.intensity,
            mirror=params.mirror,
        ),
        precision=params.precision,
    )


def _plan_stages(params: InceptionParams) -> tuple[Stage, Stage]:
    """A head that is still random would send steps through the blocks that undo what they know."""
    head = Stage(
        epochs=params.head_epochs,
        patience=params.patience,
        learning_rate=params.head_learning_rate,
        unfreeze=partial(train_blocks, layer=params.layer, blocks=0),
    )
    blocks = Stage(
        epochs=params.epochs,
        patience=params.patience,
        learning_rate=params.learning_rate,
        schedule="cosine",
        unfreeze=partial(train_blocks, layer=params.layer, blocks=params.finetune),
    )
    return head, blocks


def load_model(folder: Path) -> InceptionModel:
    """Return the model that `InceptionModel.save` wrote.

    Raises
    ------
    TrainingError
        If the weights are missing, or are not those of the network that the description gives.
    WorkspaceError
        If the description is missing or damaged.
    """
    facts = read_description(folder)
    shape, several = tuple(facts["shape"]), facts["several"]
    network = build_classifier(shape, facts["classes"], several, facts["layer"], 0.0)
    load_weights(folder, network)
    return InceptionModel(network, facts["layer"], facts["view"])
