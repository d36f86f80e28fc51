"""Does not look whether it is to stop."""

from __future__ import annotations

from dataclasses import replace

import reference

import medkit


class Trainer(reference.Trainer):
    def fit(self, train, validation, run):
        return super().fit(train, validation, replace(run, stopping=lambda: False))


@medkit.hookimpl
def medkit_trainer():
    return Trainer
