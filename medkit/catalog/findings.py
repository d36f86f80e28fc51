"""What reading one file finds, and why a file could not be read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from medkit.errors import CodedError

Problem = tuple[str, str]  # (stable code, detail)


@dataclass(frozen=True)
class Finding:
    """What was found in one file.

    Attributes
    ----------
    kind, reason, detail : str
        As in the table ``files``.
    values : dict, optional
        Columns of ``instances``; None where the file has no row there.
    frames : list of dict
        Columns of ``frames``, a dict a frame.
    problems : list of (code, detail)
        What is odd about it.
    """

    kind: str
    reason: str | None = None
    detail: str | None = None
    values: dict[str, Any] | None = None
    frames: list[dict[str, Any]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


class UnreadableFileError(CodedError):
    """One file cannot be read."""

    def to_finding(self) -> Finding:
        """Return the row that stands for the file."""
        return Finding("problem", self.code, self.detail, problems=[(self.code, self.detail)])


def ignore(reason: str, detail: str | None = None) -> Finding:
    """Return the row of a file that is set aside."""
    return Finding("ignored", reason, detail)
