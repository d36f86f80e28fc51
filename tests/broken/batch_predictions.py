"""Predicts against the images that come along."""

from __future__ import annotations

import reference

import medkit


class Model(reference.Model):
    def predict_proba(self, images):
        import numpy as np

        values = super().predict_proba(images)
        odds = np.exp(values - values.mean(axis=0))
        return odds / odds.sum(axis=1, keepdims=True)


class Trainer(reference.Trainer):
    def make_model(self, weights, several):
        return Model(self.params.size, weights, several)

    def load(self, folder):
        loaded = super().load(folder)
        return Model(loaded.size, loaded.weights, loaded.several)


@medkit.hookimpl
def medkit_trainer():
    return Trainer
