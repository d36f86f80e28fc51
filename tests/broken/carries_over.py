"""Goes on with the random numbers of the fold before."""

from __future__ import annotations

import reference

import medkit


class Trainer(reference.Trainer):
    def begin(self, width, classes, run):
        state = super().begin(width, classes, run)
        if not state["epoch"]:
            state["weights"] = 0.1 * GENERATOR.normal(size=(width, classes))
        return state


class _Lazy:
    _made = None

    def normal(self, **keywords):
        import numpy as np

        self._made = self._made or np.random.default_rng(0)
        return self._made.normal(**keywords)


GENERATOR = _Lazy()


@medkit.hookimpl
def medkit_trainer():
    return Trainer
