"""Archives that take instances: C-STORE over several associations (PS3.4, annex B).

Each instance is offered in its own transfer syntax, and its data set is sent as it lies in the
file. What an archive takes only in another syntax is refused here, and said to be so.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from medkit.sources.associations import (
    SUCCESS,
    MuteError,
    choose_classes,
    make_entity,
    parse_address,
    read_status,
)
from medkit.sources.deposits import Outgoing, Refusal, describe_status
from medkit.sources.dimse import find_instances
from medkit.sources.matching import Series
from medkit.sources.plans import Unsteady
from medkit.sources.retries import persist
from medkit.sources.retrieval import Sink, get_series

if TYPE_CHECKING:
    from pynetdicom.association import Association

_STRIKES = 3  # associations that one instance may cost
# Deflated data sets: dcmtk, and what is built on it, grants the syntax and then waits for ever.
_UNOFFERED = ("1.2.840.10008.1.2.1.99",)
_CONTEXTS = 128  # of an association: PS3.8, section 9.3.2
_WARNINGS = (0x0001, 0x0107, 0x0116, 0xB000, 0xB006, 0xB007)  # it is stored


class Peer:
    """A `deposits.Server` behind an address such as ``dimse://AET@host:port``.

    Parameters
    ----------
    address : str
        As `associations.parse_address` takes it.
    streams : int
        Associations at a time.

    Raises
    ------
    UsageError
        If it is no such address, or pynetdicom is not installed.
    """

    def __init__(self, address: str, streams: int = 2) -> None:
        found = parse_address(address)
        make_entity(found.ours)  # says what is missing
        self.streams = streams
        self._archive = replace(found, busy=threading.BoundedSemaphore(streams))
        self.name = f"{found.title} at {found.host}:{found.port}"

    def list_instances(self, series: Series) -> set[str]:
        """Return the UIDs that it has of a series; raise `MuteError` if it cannot say."""
        return set(self._find(series))

    def _find(self, series: Series) -> dict[str, str]:
        return persist(lambda: dict(find_instances(self._archive, series)), self.name)

    def store(self, batch: Sequence[Outgoing]) -> dict[str, Refusal]:
        """Send instances, and return those that were refused, by SOPInstanceUID."""
        refused = {one.uid: _decline(one) for one in batch if one.syntax in _UNOFFERED}
        left = [one for one in batch if one.uid not in refused]
        struck: Counter[str] = Counter()

        def send_one(peer: Association, one: Outgoing) -> None:
            try:
                why = _send(peer, one)
            except Unsteady as error:
                struck[one.uid] += 1
                if struck[one.uid] < _STRIKES:
                    raise
                why = Refusal(f"the association broke off over it, again and again: {error}")
            if why:
                refused[one.uid] = why
            left.remove(one)

        def send() -> None:
            for part in _cut([*left]):
                try:
                    with self._archive.associate(_make_contexts(part)) as peer:
                        for one in part:
                            send_one(peer, one)
                except MuteError:  # none of what was offered
                    refused.update({one.uid: _decline(one) for one in part})
                    del left[: len(part)]

        persist(
            send, f"what is for {self.name}", verb="sent", progress=lambda: len(batch) - len(left)
        )
        return refused

    def bring(
        self, series: Series, uids: Collection[str], folder: Path, complete: bool
    ) -> Mapping[str, Path]:
        """Bring instances back by C-GET; raise `MuteError` if it does not know that."""
        listed = {uid: kind for uid, kind in self._find(series).items() if uid in uids}
        sink = Sink(folder, set(listed), lambda _: None)

        def get() -> None:
            left = {uid: kind for uid, kind in listed.items() if uid not in sink.came}
            try:
                get_series(self._archive, series, left, sink, complete=complete)
            except ValueError:  # pynetdicom's word where the model alone is declined
                raise MuteError(f"{self.name} sends nothing back") from None

        persist(get, self.name, progress=lambda: len(sink.came))
        sink.check()
        return {uid: folder / f"{uid}.dcm" for uid in sink.came}


def _cut(batch: Sequence[Outgoing]) -> Iterator[list[Outgoing]]:
    """Yield instances in groups that one association can offer."""
    group: list[Outgoing] = []
    offered: set[tuple[str, str]] = set()
    for one in batch:
        offer = {(one.kind, one.syntax)}
        if len(offered | offer) > _CONTEXTS:
            yield group
            group, offered = [], set()
        group.append(one)
        offered |= offer
    if group:
        yield group


def _make_contexts(part: Sequence[Outgoing]) -> list[object]:
    from pynetdicom import build_context

    choose_classes([one.kind for one in part])  # makes pynetdicom know private ones
    offers = sorted({(one.kind, one.syntax) for one in part})
    return [build_context(kind, syntax) for kind, syntax in offers]


def _send(peer: Association, one: Outgoing) -> Refusal | None:
    """Send an instance, its data set as it lies in the file; return why it is not stored."""
    from pynetdicom import _config

    _config.STORE_SEND_CHUNKED_DATASET = True  # from the disk, and not parsed and written anew
    granted = any(
        context.abstract_syntax == one.kind and one.syntax in (context.transfer_syntax or ())
        for context in peer.accepted_contexts
    )
    if not granted:
        return _decline(one)
    try:
        code = read_status(peer.send_c_store(one.path))
    except (ValueError, AttributeError) as error:
        return Refusal(f"it cannot be offered: {error}")
    except RuntimeError as error:  # there is no association any more
        raise Unsteady(str(error)) from None
    return None if code in (*SUCCESS, *_WARNINGS) else describe_status(code)


def _decline(one: Outgoing) -> Refusal:
    why = f"the archive takes no {one.kind} in the transfer syntax {one.syntax}"
    return Refusal(why, syntax=True)
