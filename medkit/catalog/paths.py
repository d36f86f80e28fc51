"""Finding the file that a path of somebody else's table means."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from operator import itemgetter

Place = tuple[str, str]  # (source, path relative to its root)

_LAST = "\U0010ffff"  # above every part of a path


class PathIndex:
    """Files by the ends of their paths; many a set calls all its files alike.

    Parameters
    ----------
    places : iterable of (source, path)
        Paths of the catalog.
    """

    def __init__(self, places: Iterable[Place]) -> None:
        # Also under no source, so that no list is gone through to find those of one.
        self._exact: dict[tuple[str | None, str], list[Place]] = defaultdict(list)
        self._named: dict[tuple[str | None, str], list[Place]] = defaultdict(list)
        ends = []
        for place in sorted(set(places)):
            parts = _split(place[1])
            ends.append((parts[::-1], place))
            for source in (None, place[0]):
                self._exact[source, "/".join(parts)].append(place)
                self._named[source, parts[-1]].append(place)
        self._ends = sorted(ends)

    def find(self, path: str, source: str | None = None) -> list[Place]:
        """Return the files that a path may mean: one if it is clear, none if there is none.

        It is the whole relative path, or else the end of one, or ends in one (a table may be
        made on another machine), or else has a file name that is there once.
        """
        parts = _split(path)
        if not parts:
            return []
        whole = self._exact.get((source, "/".join(parts)), [])
        named = self._named.get((source, parts[-1]), [])
        if whole or len(named) < 2 or len(parts) == 1:
            return whole or named
        return self._find_by_end(parts, source) or named

    def _find_by_end(self, parts: list[str], source: str | None) -> list[Place]:
        end = parts[::-1]
        low, high = (
            bisect_left(self._ends, bound, key=itemgetter(0)) for bound in (end, [*end, _LAST])
        )
        found = [place for _, place in self._ends[low:high] if source in (None, place[0])]
        for start in range(1, len(parts)):
            found += self._exact.get((source, "/".join(parts[start:])), [])
        return sorted(found)


def _split(path: str) -> list[str]:
    """Return the parts of a path of any system; a member follows its archive."""
    parts = path.replace("\\", "/").replace("!", "/").split("/")
    return [part for part in parts if part not in ("", ".")]
