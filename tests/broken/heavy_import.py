"""Imports a heavy library when it is looked at."""

from __future__ import annotations

import reference
import sklearn

import medkit


class Trainer(reference.Trainer):
    library = sklearn


@medkit.hookimpl
def medkit_trainer():
    return Trainer
