"""Waits for ever."""

from __future__ import annotations

import time

import reference

import medkit


class Trainer(reference.Trainer):
    def fit(self, train, validation, run):
        time.sleep(3600)


@medkit.hookimpl
def medkit_trainer():
    return Trainer
