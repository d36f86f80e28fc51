"""Bringing a series of an archive: C-GET, or C-MOVE with a receiver of ours (PS3.4, C.4).

The receiver listens while a series is brought, and takes what was asked for and nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medkit.errors import SourceError, UsageError
from medkit.sources.associations import (
    PENDING,
    SUCCESS,
    Archive,
    choose_classes,
    list_syntaxes,
    make_contexts,
    make_entity,
    make_keys,
    read_status,
)
from medkit.sources.matching import Series

if TYPE_CHECKING:
    from pydicom import Dataset

_NO_SPACE, _NOT_ASKED, _UNKNOWN_PLACE = 0xA700, 0x0124, 0xA801


class Sink:
    """Where instances go as they come: each asked for, each once, each under its UID."""

    def __init__(self, folder: Path, expected: set[str], moved: Callable[[int], None]) -> None:
        self._folder, self._expected, self._moved = folder, expected, moved
        self._lock = threading.Lock()
        self._size = 0
        self._trouble: OSError | None = None
        self.came: set[str] = set()
        self.reasons: dict[str, str] = {}

    def take(self, event: Any) -> int:
        """Store what an event of C-STORE brings, and return the status of the answer."""
        uid = str(event.request.AffectedSOPInstanceUID)
        if uid not in self._expected:
            return _NOT_ASKED
        # As it was sent, not parsed and written anew; group 2 is made for it (PS3.10, 7.1).
        content = event.encoded_dataset()
        with self._lock:
            try:
                (self._folder / f"{uid}.dcm").write_bytes(content)
            except OSError as error:
                self._trouble = error
                return _NO_SPACE
            self.came.add(uid)
            self._size += len(content)
            self._moved(self._size)
        return 0

    def check(self) -> None:
        """Raise what went wrong with the disk meanwhile."""
        if self._trouble:
            raise self._trouble


def get_series(
    archive: Archive,
    series: Series,
    listed: Mapping[str, str],
    sink: Sink,
    *,
    complete: bool = True,
) -> None:
    """Let the archive send a series back over our own association: C-GET (PS3.4, C.4.3).

    ``listed`` is all of it if it is ``complete``; else each instance is asked for alone.
    """
    from pynetdicom import build_context, build_role, evt
    from pynetdicom.sop_class import (  # type: ignore[attr-defined]
        StudyRootQueryRetrieveInformationModelGet as Model,
    )

    told = "" not in listed.values()
    classes = choose_classes(listed.values())
    for batch, contexts in make_contexts(classes, told):
        roles = [build_role(kind, scp_role=True) for kind in batch]
        wanted = {uid for uid, kind in listed.items() if not kind or kind in batch}
        contexts = [build_context(Model), *contexts]
        with archive.associate(contexts, roles, [(evt.EVT_C_STORE, sink.take)]) as peer:
            whole = complete and len(batch) == len(classes)
            _retrieve(lambda keys: peer.send_c_get(keys, Model), series, wanted, sink, whole)


def move_series(archive: Archive, series: Series, listed: Mapping[str, str], sink: Sink) -> None:
    """Let the archive send a series to our receiver: C-MOVE (PS3.4, C.4.2)."""
    from pynetdicom import build_context, evt
    from pynetdicom.sop_class import (  # type: ignore[attr-defined]
        StudyRootQueryRetrieveInformationModelMove as Model,
    )

    receiver = make_entity(archive.ours)
    for kind in choose_classes(listed.values()):
        receiver.add_supported_context(kind, list_syntaxes())
    receiver.require_calling_aet = [archive.title]
    with archive.moving:  # one port, one receiver
        try:
            server = receiver.start_server(
                ("", archive.listening), block=False, evt_handlers=[(evt.EVT_C_STORE, sink.take)]
            )
        except OSError as error:
            raise UsageError(
                f"nothing can listen on port {archive.listening}: {error.strerror}; choose another "
                "receiver=PORT, which the archive must know, too"
            ) from None
        try:
            with archive.associate([build_context(Model)]) as peer:
                send = partial(peer.send_c_move, move_aet=archive.ours, query_model=Model)
                _retrieve(send, series, set(listed), sink, True)
            if not sink.came:
                asked = f"does it know {archive.ours} at the address of this machine, port"
                known = f"{asked} {archive.listening}?"
                sink.reasons = {uid: f"{why}; {known}" for uid, why in sink.reasons.items()}
        finally:
            server.shutdown()  # type: ignore[union-attr]


def _retrieve(
    send: Callable[[Dataset], Iterator[tuple[Dataset, Dataset | None]]],
    series: Series,
    wanted: set[str],
    sink: Sink,
    whole: bool,
) -> None:
    """Ask for a series at once, where all of it is wanted; then for each that did not come."""
    keys = {"StudyInstanceUID": series.study, "SeriesInstanceUID": series.uid}
    if whole:
        _watch(send(make_keys("SERIES", keys)), series)
    for uid in sorted(wanted - sink.came):
        reason = _watch(send(make_keys("IMAGE", {**keys, "SOPInstanceUID": uid})), series)
        if uid not in sink.came:
            sink.reasons[uid] = reason


def _watch(answers: Iterator[tuple[Dataset, Dataset | None]], series: Series) -> str:
    """Follow a retrieval to its end, and return what the archive says of it."""
    said = "it was not sent"
    for status, _ in answers:
        code = read_status(status)
        if code == _UNKNOWN_PLACE:
            raise SourceError(
                f"series {series.uid}: the archive does not know where we are (0xA801); tell it "
                "our AE title, this machine's address and the receiver's port"
            )
        if code not in (*SUCCESS, *PENDING):
            said = f"the archive answers with status 0x{code:04X}"
    return said
