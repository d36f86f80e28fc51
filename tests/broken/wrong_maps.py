"""Explains an image by one number."""

from __future__ import annotations

import reference

import medkit


class Model(reference.Model):
    def explain(self, images):
        return super().explain(images).mean(axis=(1, 2))


class Trainer(reference.Trainer):
    def load(self, folder):
        loaded = super().load(folder)
        return Model(loaded.size, loaded.weights, loaded.several)


@medkit.hookimpl
def medkit_trainer():
    return Trainer
