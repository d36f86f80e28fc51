"""Leaves the speed out of its checkpoints."""

from __future__ import annotations

import reference

import medkit


class Trainer(reference.Trainer):
    def begin(self, width, classes, run):
        state = super().begin(width, classes, run)
        return state | {"speed": 0 * state["speed"]}


@medkit.hookimpl
def medkit_trainer():
    return Trainer
