"""Keeps its model as a pickle."""

from __future__ import annotations

import pickle

import reference

import medkit


class Model(reference.Model):
    def save(self, folder):
        (folder / "model.pickle").write_bytes(pickle.dumps(vars(self)))


class Trainer(reference.Trainer):
    def make_model(self, weights, several):
        return Model(self.params.size, weights, several)

    def load(self, folder):
        return Model(**pickle.loads((folder / "model.pickle").read_bytes()))


@medkit.hookimpl
def medkit_trainer():
    return Trainer
