"""Has options that nobody explains, and takes any."""

from __future__ import annotations

from dataclasses import dataclass

import reference

import medkit


@dataclass
class Params:
    size: int = 8
    epochs: int = 8
    rate: float = 0.1


class Trainer(reference.Trainer):
    Params = Params


@medkit.hookimpl
def medkit_trainer():
    return Trainer
