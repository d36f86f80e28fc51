"""A trained network: how it comes about, what it says of images, and how it is kept."""

from __future__ import annotations

from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medkit.networks.augmentation import Augmentation
from medkit.networks.fitting import Plan, Stage, fit_network
from medkit.networks.prediction import predict
from medkit.networks.saving import load_weights, read_description, save_network
from medkit.training.params import restore_params
from medkit_cnn import CnnParams
from medkit_cnn.network import build_network

if TYPE_CHECKING:
    import keras

    from medkit.images.reader import Images
    from medkit.training.contract import LabelledImages, RunContext


class CnnModel:
    """A network and the view it was trained on.

    Parameters
    ----------
    params : CnnParams
        What the network was built from.
    network : keras.Model
        From `build_network`: pixels (n, H, W, C) of ``view`` to probabilities (n, classes).
    """

    def __init__(self, params: CnnParams, network: keras.Model) -> None:
        self.params = params
        self.network = network

    @property
    def view(self) -> dict[str, Any]:
        """How the network sees images: keywords of ``images.with_view``."""
        return self.params.view

    def predict_proba(self, images: Images) -> npt.NDArray[np.float64]:
        """Return an array (n, classes) whose rows sum to 1 unless an image has several labels."""
        return predict(self.network, images.with_view(**self.view))

    def save(self, folder: Path) -> None:
        """Write the description as JSON and the weights as HDF5."""
        save_network(folder, {"params": asdict(self.params)}, self.network)


def fit_model(
    params: CnnParams, train: LabelledImages, validation: LabelledImages, run: RunContext
) -> CnnModel:
    """Return the model of the best epoch; see `fitting.fit_network`."""
    stage = Stage(params.epochs, params.patience, params.learning_rate, params.schedule)
    varied = {one.name: getattr(params, one.name) for one in fields(Augmentation)}
    plan = Plan(
        build=partial(build_network, params),
        view=params.view,
        stages=(stage,),
        batch_size=params.batch_size,
        class_weights=params.class_weights,
        augmentation=Augmentation(**varied),
        precision=params.precision,
    )
    return CnnModel(params, fit_network(plan, train, validation, run))


def load_model(folder: Path) -> CnnModel:
    """Return the model that `CnnModel.save` wrote.

    Raises
    ------
    TrainingError
        If the weights are missing, are refused, or are not of the network that is described.
    WorkspaceError
        If the description is missing or damaged.
    """
    description = read_description(folder)
    params = restore_params(CnnParams, description["params"])
    shape, several = tuple(description["shape"]), description["several"]
    network = build_network(params, shape, description["classes"], several)
    load_weights(folder, network)
    return CnnModel(params, network)
