"""A trainer that keeps every promise: logistic regression on small images, in NumPy alone."""

from __future__ import annotations

import json
from dataclasses import dataclass

import medkit
from medkit.training.params import option


@dataclass(frozen=True)
class Params:
    """The options."""

    size: int = option(8, "Rows and columns that images are reduced to.", least=1)
    epochs: int = option(8, "Passes over the training part.", least=1)
    rate: float = option(1.0, "Length of a step.", above=0)


class Model:
    """Weights of a row of pixels and a constant; several labels have a probability each."""

    def __init__(self, size, weights, several):
        self.size, self.weights, self.several = size, weights, several

    def predict_rows(self, rows):
        import numpy as np

        scores = rows @ self.weights
        if self.several:
            return 1 / (1 + np.exp(-scores))
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True)

    def predict_proba(self, images):
        import numpy as np

        batches = images.with_view(size=self.size).batches(64)
        return np.concatenate([self.predict_rows(flatten(batch)) for batch in batches])

    def explain(self, images):
        import numpy as np

        kind = self.predict_proba(images).argmax(axis=1)
        pixels = flatten(images.with_view(size=self.size)[:])
        parts = pixels[:, :-1] * self.weights[:-1, kind].T
        return parts.reshape(len(np.asarray(kind)), self.size, self.size)

    def save(self, folder):
        import numpy as np

        np.save(folder / "weights.npy", self.weights)
        (folder / "model.json").write_text(json.dumps([self.size, self.several]))


class Trainer:
    """Adds up steps with momentum; leaves a checkpoint an epoch."""

    Params = Params
    tasks = frozenset({"multiclass", "multilabel"})

    def __init__(self, params):
        self.params = params

    def fit(self, train, validation, run):
        import numpy as np

        rows = self.read(train.images)
        targets, known = spread(train.labels, len(train.classes))
        state = self.begin(rows.shape[1], len(train.classes), run)
        several = train.labels.ndim == 2
        for epoch in range(state["epoch"], self.params.epochs):
            if run.stopping():
                raise medkit.MedkitError(f"stopped in epoch {epoch}")
            random = np.random.default_rng([run.seed, epoch])
            for batch in np.array_split(random.permutation(len(rows)), 4):
                model = Model(self.params.size, state["weights"], several)
                wrong = (model.predict_rows(rows[batch]) - targets[batch]) * known[batch]
                slope = rows[batch].T @ wrong / len(batch)
                state["speed"] = 0.8 * state["speed"] - self.params.rate * slope
                state["weights"] = state["weights"] + state["speed"]
            state["epoch"] = epoch + 1
            self.keep(state, run)
            run.status(epoch=epoch, epochs=self.params.epochs, loss=float(np.abs(wrong).mean()))
            run.progress(epoch + 1, self.params.epochs, "epochs")
        return self.make_model(state["weights"], several)

    def read(self, images):
        return flatten(images.with_view(size=self.params.size)[:])

    def make_model(self, weights, several):
        return Model(self.params.size, weights, several)

    def begin(self, width, classes, run):
        import numpy as np

        path = run.checkpoints / "state.npz"
        if path.exists():
            with np.load(path) as kept:
                return {"epoch": int(kept["epoch"])} | {key: kept[key] for key in ARRAYS}
        weights = 1e-2 * np.random.default_rng(run.seed).normal(size=(width, classes))
        return {"epoch": 0, "weights": weights, "speed": np.zeros_like(weights)}

    def keep(self, state, run):
        import numpy as np

        beside = run.checkpoints / "beside.npz"
        np.savez(beside, **state)
        beside.replace(run.checkpoints / "state.npz")

    def load(self, folder):
        import numpy as np

        size, several = json.loads((folder / "model.json").read_text())
        return Model(size, np.load(folder / "weights.npy"), several)


ARRAYS = ("weights", "speed")


def flatten(pixels):
    """Return pixels as rows, with a constant behind them."""
    import numpy as np

    rows = pixels.reshape(len(pixels), -1).astype(np.float64)
    return np.concatenate([rows, np.ones((len(rows), 1))], axis=1)


def spread(labels, classes):
    """Return a row of targets for each image, and where they are known."""
    import numpy as np

    targets = np.eye(classes)[labels] if labels.ndim == 1 else (labels == 1).astype(float)
    known = np.ones_like(targets) if labels.ndim == 1 else (labels >= 0).astype(float)
    return targets, known


@medkit.hookimpl
def medkit_trainer():
    return Trainer
