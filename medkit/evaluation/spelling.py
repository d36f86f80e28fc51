"""Numbers and structures in words, the same wherever a report shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Number = float | None


def spell_share(value: Number) -> str | None:
    """Return a share in per cent, such as ``92.5 %``; None for None."""
    return None if value is None else f"{100 * value:.1f}\u202f%"


def spell_number(value: Number) -> str | None:
    """Return a number with three decimals and a true minus; None for None."""
    return None if value is None else f"{value:.3f}".replace("-", "−")


def spell_points(value: float) -> str:
    """Return a difference of shares in points of per cent, with its sign."""
    return f"{100 * value:+.1f}".replace("-", "−")


def spell_p(value: Number) -> str | None:
    """Return a p value: small ones as a bound."""
    if value is None:
        return None
    return "<\u202f0.001" if value < 0.001 else f"{value:.3f}"


def spell_value(entry: Mapping[str, Number]) -> str:
    """Return a value with its interval, such as ``0.925 (0.916 to 0.933)``."""
    value, low, high = (spell_number(entry.get(part)) for part in ("value", "low", "high"))
    if value is None:
        return "not computable"
    return value if low is None or high is None else f"{value} ({low} to {high})"


def spell(value: Any) -> str:
    """Return a value as JSON has it in words: names before values, parts set off by semicolons."""
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {spell(one)}" for name, one in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(spell(one) for one in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def count(number: int, what: str) -> str:
    """Return a number with its noun, in the plural where it is not 1."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
