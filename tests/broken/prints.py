"""Tells the terminal how it is."""

from __future__ import annotations

import reference

import medkit


class Trainer(reference.Trainer):
    def fit(self, train, validation, run):
        print("epoch 1/8: 100%")
        return super().fit(train, validation, run)


@medkit.hookimpl
def medkit_trainer():
    return Trainer
