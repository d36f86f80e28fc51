"""Leaves checkpoints and never looks at them."""

from __future__ import annotations

import reference

import medkit


class Trainer(reference.Trainer):
    def begin(self, width, classes, run):
        (run.checkpoints / "state.npz").unlink(missing_ok=True)
        return super().begin(width, classes, run)


@medkit.hookimpl
def medkit_trainer():
    return Trainer
