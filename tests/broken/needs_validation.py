"""Takes the best of the validation part for granted."""

from __future__ import annotations

import reference

import medkit


class Trainer(reference.Trainer):
    def fit(self, train, validation, run):
        validation.images[0]
        return super().fit(train, validation, run)


@medkit.hookimpl
def medkit_trainer():
    return Trainer
