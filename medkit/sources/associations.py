"""Associations with an archive that speaks DIMSE (PS3.8): to whom, as whom, and for what.

Every transfer syntax is proposed in a presentation context of its own, so that the archive can
send what it has stored as it is stored.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from medkit.errors import SourceError, UsageError
from medkit.sources.plans import Unsteady

if TYPE_CHECKING:
    from pydicom import Dataset
    from pynetdicom import AE
    from pynetdicom.association import Association

SCHEME = "dimse"
SUCCESS, PENDING = (0x0000,), (0xFF00, 0xFF01)
_OURS = "MEDKIT"
_PATIENCE = 60  # seconds without an answer
_CONTEXTS = 128  # of an association: PS3.8, section 9.3.2
_AT_ONCE = 2  # associations; archives allow few
_STREAMED = "1.2.840.10008.1.2.7."  # of video over a network: PS3.22
_JPEG_XL = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (110, 111, 112))


class MuteError(SourceError):
    """A server does not do at all what it is asked for."""


@dataclass(frozen=True)
class Archive:
    """Whom to speak to, and as whom.

    Attributes
    ----------
    title, host, port : str, str, int
        Of the archive: its AE title and its address.
    ours : str
        Our own AE title.
    listening : int
        The port of our receiver, for C-MOVE; 0 for C-GET.
    """

    title: str
    host: str
    port: int
    ours: str = _OURS
    listening: int = 0
    busy: threading.BoundedSemaphore = field(
        default_factory=lambda: threading.BoundedSemaphore(_AT_ONCE), compare=False
    )
    moving: threading.Lock = field(default_factory=threading.Lock, compare=False)

    @contextmanager
    def associate(
        self, contexts: Sequence[Any], roles: Sequence[Any] = (), on: Any = ()
    ) -> Iterator[Association]:
        """Yield an association; its handlers are those of pynetdicom.

        Raises
        ------
        Unsteady
            If there is none to be had.
        MuteError
            If all that it would be for is declined.
        """
        entity = make_entity(self.ours)
        entity.requested_contexts = list(contexts)
        with self.busy:
            peer = entity.associate(
                self.host,
                self.port,
                ae_title=self.title,
                ext_neg=list(roles),
                evt_handlers=list(on),
            )
            try:
                if peer.rejected_contexts and not peer.is_established:
                    raise MuteError(f"{self.title} at {self.host}:{self.port} does not do that")
                if not peer.is_established:
                    how = "refuses" if peer.is_rejected else "does not answer"
                    raise Unsteady(
                        f"{self.title} at {self.host}:{self.port} {how} an association with "
                        f"{self.ours}; does it know that AE title?"
                    )
                yield peer
            finally:
                if peer.is_established:
                    peer.release()


def parse_address(address: str) -> Archive:
    """Return whom an address names: ``dimse://AET@host:port``.

    After a ``?`` there may be ``aet=OURS``, and for C-MOVE ``receiver=PORT``: where we listen. The
    archive must know our AE title, and with C-MOVE this machine and that port for it, too.

    Raises
    ------
    UsageError
        If it is no such address.
    """
    parts = urlsplit(address)
    options = dict(parse_qsl(parts.query))
    ours = options.pop("aet", _OURS)
    listening = options.pop("receiver", "0")
    try:
        title, port = parts.username or "", parts.port or 104
    except ValueError:
        title, port = "", 0
    titles_fit = all(0 < len(one) <= 16 and one.isprintable() for one in (title, ours))
    right = parts.scheme == SCHEME and parts.hostname and titles_fit and parts.password is None
    if not right or options or parts.path.strip("/") or not listening.isdigit():
        raise UsageError(
            f"{address!r} is no address of an archive; give dimse://AET@host:port, with ?aet=OURS "
            "if it knows us under another title than MEDKIT, and &receiver=PORT for C-MOVE"
        )
    return Archive(title, str(parts.hostname), port, ours, int(listening))


def make_entity(title: str) -> AE:
    """Return what speaks for us under an AE title.

    Raises
    ------
    UsageError
        If pynetdicom is not installed.
    """
    try:
        from pynetdicom import AE
    except ImportError:
        raise UsageError(
            "pynetdicom is not installed; install it: pip install medkit[dimse]"
        ) from None
    entity = AE(title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = _PATIENCE
    entity.connection_timeout = _PATIENCE
    entity.maximum_pdu_size = 1 << 18
    return entity


def make_contexts(classes: Sequence[str], told: bool) -> Iterator[tuple[list[str], list[Any]]]:
    """Yield SOP classes, and presentation contexts for them, as many as an association takes.

    Parameters
    ----------
    classes : sequence of str
        All that are to be received.
    told : bool
        Whether they are those that the archive has; else they are all that there are, too many
        for a context for each transfer syntax: the archive then chooses one for each class.
    """
    from pynetdicom import build_context

    syntaxes = list_syntaxes()
    step = (_CONTEXTS - 1) // (len(syntaxes) if told else 1)
    for start in range(0, len(classes), step):
        batch = [*classes[start : start + step]]
        if told:
            yield batch, [build_context(kind, one) for kind in batch for one in syntaxes]
        else:
            yield batch, [build_context(kind, syntaxes) for kind in batch]


def make_keys(level: str, keys: dict[str, str]) -> Dataset:
    """Return the identifier of a query or a retrieval (PS3.4, C.4)."""
    from pydicom import DataElement, Dataset
    from pydicom.config import IGNORE
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    asked = Dataset()
    for keyword, value in {"QueryRetrieveLevel": level, **keys}.items():
        tag = tag_for_keyword(keyword)
        if tag is not None:  # wild cards and ranges are no values of their kind
            vr = dictionary_VR(tag)
            asked[tag] = DataElement(tag, vr, value or None, validation_mode=IGNORE)
    return asked


def read_status(status: Dataset) -> int:
    """Return the status of an answer; none came where the connection was lost."""
    if "Status" not in status:
        raise Unsteady("the archive stopped answering")
    return int(status.Status)


def choose_classes(stated: Collection[str]) -> list[str]:
    """Return SOP classes that were stated; all that there are, where one of them is empty.

    pynetdicom is told of those that it does not know: retired ones, and private.
    """
    from pynetdicom.service_class import StorageServiceClass
    from pynetdicom.sop_class import _STORAGE_CLASSES, register_uid, uid_to_service_class

    told = set(stated) - {""}
    for kind in told:
        if uid_to_service_class(kind) is not StorageServiceClass:
            register_uid(kind, f"Class_{kind.replace('.', '_')}", StorageServiceClass)
    known = set(_STORAGE_CLASSES.values()) if "" in stated else set()
    return sorted(told | known)


def list_syntaxes() -> list[str]:
    """Return every transfer syntax that files have."""
    from pydicom.uid import AllTransferSyntaxes

    known = [str(uid) for uid in AllTransferSyntaxes]
    return [*(uid for uid in known if not uid.startswith(_STREAMED)), *_JPEG_XL]
