"""Loses the axis of the images where there is one."""

from __future__ import annotations

import reference

import medkit


class Model(reference.Model):
    def predict_proba(self, images):
        return super().predict_proba(images).squeeze()


class Trainer(reference.Trainer):
    def make_model(self, weights, several):
        return Model(self.params.size, weights, several)

    def load(self, folder):
        loaded = super().load(folder)
        return Model(loaded.size, loaded.weights, loaded.several)


@medkit.hookimpl
def medkit_trainer():
    return Trainer
