"""The nearest centroid, a trainer of the contract medkit.trainers.v1. Frozen: never edit it."""

import json
from dataclasses import dataclass, field

import numpy as np

import medkit


@medkit.hookimpl
def medkit_trainer():
    return Trainer


@dataclass(frozen=True)
class Params:
    size: int = field(default=16, metadata={"help": "Rows and columns of what is compared."})


class Model:
    def __init__(self, size, centroids):
        self.size, self.centroids = size, centroids

    def predict_proba(self, images):
        distance = ((see(images, self.size)[:, None] - self.centroids) ** 2).sum(axis=2)
        odds = np.exp(-(distance - distance.min(axis=1, keepdims=True)))
        return odds / odds.sum(axis=1, keepdims=True)

    def save(self, folder):
        np.save(folder / "centroids.npy", self.centroids)
        (folder / "model.json").write_text(json.dumps({"size": self.size}))


class Trainer:
    Params = Params
    tasks = frozenset({"multiclass"})

    def __init__(self, params):
        self.params = params
        self.weights_used = {"name": "none", "sha256": None, "pretrained": False}

    def fit(self, train, validation, run):
        pixels = see(train.images, self.params.size)
        classes = range(len(train.classes))
        centroids = np.stack([pixels[train.labels == one].mean(axis=0) for one in classes])
        noise = np.random.default_rng(run.seed).normal(0, 1e-6, centroids.shape)
        model = Model(self.params.size, centroids + noise)
        if validation is not None and len(validation.images):
            told = model.predict_proba(validation.images).argmax(axis=1)
            run.look(0, float((told == validation.labels).mean()), chosen=True)
        run.status(epoch=0, loss=0.0, images_per_second=float(len(train.images)))
        run.progress(1, 1, "epochs")
        return model

    def load(self, folder):
        size = json.loads((folder / "model.json").read_text())["size"]
        return Model(size, np.load(folder / "centroids.npy"))


def see(images, size):
    pixels = images.with_view(size=size)[:][..., 0]
    return 20 * np.stack([pixels.mean(axis=axis).std(axis=1) for axis in (1, 2)], axis=1)
