"""Says that it does several labels, and does one."""

from __future__ import annotations

import reference

import medkit


class Trainer(reference.Trainer):
    def make_model(self, weights, several):
        return super().make_model(weights, several) if not several else None


@medkit.hookimpl
def medkit_trainer():
    return Trainer
