"""Needs what is not there."""

from __future__ import annotations

raise RuntimeError("no licence")
