"""Finding the file that a path of somebody else's table means."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

Place = tuple[str, str]  # (source, path relative to its root)


class PathIndex:
    """Files by the ends of their paths.

    Parameters
    ----------
    places : iterable of (source, path)
        Paths of the catalog.
    """

    def __init__(self, places: Iterable[Place]) -> None:
        self._exact: dict[str, list[Place]] = defaultdict(list)
        self._by_name: dict[str, list[Place]] = defaultdict(list)
        for place in sorted(set(places)):
            parts = _split(place[1])
            self._exact["/".join(parts)].append(place)
            self._by_name[parts[-1]].append(place)

    def find(self, path: str, source: str | None = None) -> list[Place]:
        """Return the files that a path may mean: one if it is clear, none if there is none.

        It is the whole relative path, or else the end of one, or ends in one (a table may be
        made on another machine), or else has a file name that is there once.
        """
        parts = _split(path)
        named = self._by_name.get(parts[-1], []) if parts else []
        steps = (
            self._exact.get("/".join(parts), []),
            [place for place in named if _one_ends_other(parts, _split(place[1]))],
            named,
        )
        for step in steps:
            found = [place for place in step if source is None or place[0] == source]
            if found:
                return found
        return []


def _split(path: str) -> list[str]:
    """Return the parts of a path of any system; a member follows its archive."""
    parts = path.replace("\\", "/").replace("!", "/").split("/")
    return [part for part in parts if part not in ("", ".")]


def _one_ends_other(first: list[str], other: list[str]) -> bool:
    shorter = min(len(first), len(other))
    return first[-shorter:] == other[-shorter:]
