"""Divides by the spread of an image, which may have none."""

from __future__ import annotations

import reference

import medkit


class Model(reference.Model):
    def predict_proba(self, images):
        import numpy as np

        values = super().predict_proba(images)
        brightness = images.with_view(size=1)[:].ravel()
        return np.where((brightness < np.quantile(brightness, 0.2))[:, None], np.nan, values)


class Trainer(reference.Trainer):
    def make_model(self, weights, several):
        return Model(self.params.size, weights, several)

    def load(self, folder):
        loaded = super().load(folder)
        return Model(loaded.size, loaded.weights, loaded.several)


@medkit.hookimpl
def medkit_trainer():
    return Trainer
