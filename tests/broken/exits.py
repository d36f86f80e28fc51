"""Ends the process it is in."""

from __future__ import annotations

import os
import sys

import reference

import medkit


class Trainer(reference.Trainer):
    def fit(self, train, validation, run):
        sys.stderr.write("out of licences\n")
        sys.stderr.flush()
        os._exit(3)


@medkit.hookimpl
def medkit_trainer():
    return Trainer
