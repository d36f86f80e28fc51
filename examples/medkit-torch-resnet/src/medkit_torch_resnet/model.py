"""A trained network: how it comes about, what it says of images, and how it is kept."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from medkit.networks.augmentation import Augmentation
from medkit.networks.batches import measure_scale
from medkit.training.params import restore_params
from medkit.workspace import read_json, write_json

from . import Options
from .fitting import BATCH, Plan, draw_seed, fit, softmax
from .learning import (
    Learner,
    choose_device,
    compute_logits,
    read_weights,
    to_tensor,
    write_weights,
)
from .network import ResNet

if TYPE_CHECKING:
    from medkit.images.reader import Images
    from medkit.training.contract import LabelledImages, RunContext


@dataclass(frozen=True)
class Model:
    """A network, and the options it was built from.

    Attributes
    ----------
    options : Options
        They say how it sees images.
    scale : tuple of float
        Which grey values it sees them in; of the training part, never an image's own.
    classes : int
        How many it tells apart.
    network : ResNet
        From images (n, C, H, W) to logits (n, classes).
    """

    options: Options
    scale: tuple[float, float]
    classes: int
    network: ResNet

    @property
    def view(self) -> dict[str, Any]:
        """How the network sees images: keywords of ``images.with_view``."""
        return self.options.view | {"scale": self.scale}

    def predict_proba(self, images: Images) -> npt.NDArray[np.float64]:
        """Return an array (n, classes) whose rows sum to 1."""
        device = next(self.network.parameters()).device
        batches = images.with_view(**self.view).batches(BATCH)
        parts = [compute_logits(self.network, batch, device) for batch in batches]
        return softmax(np.concatenate([np.empty((0, self.classes), np.float32), *parts]))

    def explain(self, images: Images) -> npt.NDArray[np.float32]:
        """Return class activation maps (n, h, w); see `ResNet.locate`."""
        device = next(self.network.parameters()).device
        batches = images.with_view(**self.view).batches(BATCH)
        self.network.eval()
        with torch.inference_mode():
            maps = [
                self.network.locate(to_tensor(batch, device)).cpu().numpy() for batch in batches
            ]
        return np.concatenate(maps)

    def save(self, folder: Path) -> None:
        """Write the weights as plain arrays, and then what the network is built from as JSON."""
        np.savez(folder / "weights.npz", **read_weights(self.network))
        described = {name: getattr(self, name) for name in ("scale", "classes")}
        write_json(folder / "model.json", described | {"options": asdict(self.options)})


def fit_model(
    options: Options, train: LabelledImages, validation: LabelledImages, run: RunContext
) -> Model:
    """Return the model of the best epoch; see `fitting.fit`."""
    torch.set_num_threads(run.threads)
    torch.manual_seed(draw_seed(run, 0))
    classes, batches = len(train.classes), -(-len(train) // options.batch_size)
    network = ResNet(options, classes)
    learner = Learner(network, options, options.epochs * batches, choose_device())
    varied = {one.name: getattr(options, one.name) for one in fields(Augmentation)}
    plan = Plan(
        options.epochs,
        options.patience,
        options.batch_size,
        Augmentation(**varied),
        options.class_weights,
    )
    scale = measure_scale(train.view(**options.view).images)
    model = Model(options, scale, classes, network)
    seen, judged = (part.view(**model.view) for part in (train, validation))
    write_weights(network, fit(learner, plan, seen, judged, run))
    return model


def load_model(folder: Path) -> Model:
    """Return the model that `Model.save` wrote; nothing is unpickled."""
    described = read_json(folder / "model.json")
    options = restore_params(Options, described["options"])
    network = ResNet(options, described["classes"])
    with np.load(folder / "weights.npz", allow_pickle=False) as arrays:
        write_weights(network, arrays)
    scale = tuple(described["scale"])
    return Model(options, scale, described["classes"], network.to(choose_device()))
