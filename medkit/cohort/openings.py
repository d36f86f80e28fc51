"""The ledger of held-out sets: which was opened when, with what, and how often before.

    openings.jsonl      a line an opening, each with the SHA-256 of the line before

What was held out answers a question once. Every further look is a choice made with the answers
known, so that the number is no longer that of new persons. An opening is therefore written down
before anything of it is measured, and the next one is possible only knowingly. Lines are added and
never changed: each holds the hash of the one before, so that one that was changed or removed shows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from medkit.errors import UsageError, WorkspaceError
from medkit.workspace import Workspace, write_beside

_START = "0" * 64


@dataclass(frozen=True)
class Opening:
    """One opening of a held-out set.

    Attributes
    ----------
    held_out : str
        Its name, `medkit.cohort.folds.Folds.held_out_id`.
    set_name, set_id, label, folds_key : str
        What it belongs to.
    images : int
        How many it has.
    persons : tuple of str
        The ``split_group`` of everybody in it.
    runs : tuple of dict
        ``run``, its name, and ``models``, a hash of what was applied.
    rule : str
        By which a class was decided.
    outside : bool
        Whether images unlike those of training were predicted, too.
    command : tuple of str
        What the user typed.
    opened : str
        When, in UTC.
    number : int
        1 for the first time that any of these persons were looked at.
    previous : str
        SHA-256 of the line before.
    """

    held_out: str
    set_name: str
    set_id: str
    label: str
    folds_key: str
    images: int
    persons: tuple[str, ...]
    runs: tuple[Mapping[str, str], ...]
    rule: str
    outside: bool
    command: tuple[str, ...] = ()
    opened: str = ""
    number: int = 0
    previous: str = _START

    def asks_the_same(self, other: Opening) -> bool:
        """Tell whether the same is measured of the same: nothing more is learned by it."""
        names = ("held_out", "persons", "rule", "outside")
        alike = all(getattr(self, name) == getattr(other, name) for name in names)
        return alike and all(run in other.runs for run in self.runs)


def read_openings(workspace: Workspace) -> list[Opening]:
    """Return every opening of a workspace, first to last.

    Raises
    ------
    WorkspaceError
        If a line was changed, added or removed by another than medkit.
    """
    if not workspace.openings.exists():
        return []
    found, previous = [], _START
    for number, line in enumerate(workspace.openings.read_bytes().splitlines(), 1):
        opening = _parse(line)
        if opening is None or opening.previous != previous:
            raise WorkspaceError(
                f"line {number} of {workspace.openings} is not what was written, so what was held "
                "out may have been opened more often than it says; bring back the file as it was"
            )
        found.append(opening)
        previous = hashlib.sha256(line).hexdigest()
    return found


def find_openings(openings: Sequence[Opening], persons: Collection[str]) -> list[Opening]:
    """Return those that showed any of these persons."""
    wanted = set(persons)
    return [opening for opening in openings if not wanted.isdisjoint(opening.persons)]


def record_opening(workspace: Workspace, opening: Opening, *, again: bool = False) -> Opening:
    """Write down that a held-out set is opened, before it is; return it with its number.

    Asked again for the same, as after a kill, it is the same opening and nothing is written.

    Parameters
    ----------
    workspace : Workspace
        Locked by the caller.
    opening : Opening
        Without time and number.
    again : bool
        Open it although some of its persons were looked at before.

    Raises
    ------
    UsageError
        If they were, and ``again`` is false.
    WorkspaceError
        If the ledger is not what was written.
    """
    earlier = find_openings(read_openings(workspace), opening.persons)
    for one in earlier:
        if opening.asks_the_same(one):
            return one
    if earlier and not again:
        raise UsageError(_refuse(earlier, opening))
    content = workspace.openings.read_bytes() if workspace.openings.exists() else b""
    last = content.splitlines()[-1:]
    written = replace(
        opening,
        opened=datetime.now(UTC).isoformat(timespec="seconds"),
        number=len(earlier) + 1,
        previous=hashlib.sha256(last[0]).hexdigest() if last else _START,
    )
    with write_beside(workspace.openings) as beside:
        beside.write_bytes(content + _spell(written))
    return written


def _refuse(earlier: Sequence[Opening], opening: Opening) -> str:
    last = earlier[-1]
    shared = len({*opening.persons} & {person for one in earlier for person in one.persons})
    runs = ", ".join(run["run"] for run in last.runs)
    times = "once" if len(earlier) == 1 else f"{len(earlier)} times"
    return (
        f"{shared} of the {len(opening.persons)} held-out persons were looked at before, {times}, "
        f"last on {last.opened[:10]} with {runs}; after each look, what is chosen is chosen "
        "knowing the answer. --again opens it once more, which is written down and reported"
    )


def _spell(opening: Opening) -> bytes:
    return (json.dumps(asdict(opening), sort_keys=True, ensure_ascii=False) + "\n").encode()


def _parse(line: bytes) -> Opening | None:
    try:
        opening = Opening(**json.loads(line))
        return replace(
            opening,
            persons=tuple(opening.persons),
            runs=tuple(dict(run) for run in opening.runs),
            command=tuple(opening.command),
        )
    except (ValueError, TypeError):
        return None
