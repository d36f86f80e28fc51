"""Makes the weights it is given sum to one, where they lie."""

from __future__ import annotations

import reference

import medkit


class Trainer(reference.Trainer):
    def fit(self, train, validation, run):
        train.weights[:] = train.weights / train.weights.sum()
        return super().fit(train, validation, run)


@medkit.hookimpl
def medkit_trainer():
    return Trainer
