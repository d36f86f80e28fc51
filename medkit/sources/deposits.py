"""Instances that are sent to a server of images, and what it may say of them."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from medkit.errors import SourceError
from medkit.sources.matching import Series, is_uid

# Failure reasons and statuses of storing: PS3.4, table B.2-1, and PS3.18, section 10.5.3.2.
_SAID = {
    0x0106: "a value is not valid",
    0x0107: "the server stored it without some elements",
    0x0110: "the server failed over it",
    0x0111: "it is there already, says the server",
    0x0112: "no such object",
    0x0117: "its UID is not valid",
    0x0122: "its SOP class is not supported",
    0x0124: "we are not allowed to",
    0x0212: "its answer was mistyped",
    0xA700: "the server is out of resources",
    0xA900: "its data set does not match its SOP class",
    0xC000: "the server does not understand it",
    0xC122: "its transfer syntax is not supported",
    0xC124: "we are not allowed to",
}
_RANGES = {0xA700: 0x100, 0xA900: 0x100, 0xC000: 0x1000}  # the rest is the server's own
SYNTAX = 0xC122
_PREAMBLE = 132
_META = ("MediaStorageSOPInstanceUID", "MediaStorageSOPClassUID", "TransferSyntaxUID")


@dataclass(frozen=True)
class Outgoing:
    """An instance in a file of DICOM's format (PS3.10), as its file meta information says.

    Attributes
    ----------
    path : Path
        The file.
    uid, kind, syntax : str
        SOPInstanceUID, SOPClassUID and transfer syntax.
    size : int
        Bytes of the file.
    """

    path: Path
    uid: str
    kind: str
    syntax: str
    size: int


@dataclass(frozen=True)
class Refusal:
    """What a server said when it did not take an instance.

    Attributes
    ----------
    text : str
        With the status code, for a person.
    syntax : bool
        Whether another transfer syntax may do.
    """

    text: str
    syntax: bool = False


class Server(Protocol):
    """A server of images that takes instances; used by several threads."""

    name: str
    streams: int

    def list_instances(self, series: Series) -> set[str]:
        """Return the UIDs that it has of a series; raise `MuteError` if it cannot say."""

    def store(self, batch: Sequence[Outgoing]) -> dict[str, Refusal]:
        """Send instances, and return those that were refused, by SOPInstanceUID."""

    def bring(
        self, series: Series, uids: Collection[str], folder: Path, complete: bool
    ) -> Mapping[str, Path]:
        """Bring instances back into a folder; raise `MuteError` if it cannot send any."""


def read_outgoing(path: Path) -> Outgoing:
    """Return what is to be said of a file before it is sent.

    Raises
    ------
    SourceError
        If it is not in DICOM's format, or its meta information lacks a UID.
    """
    from pydicom.filereader import read_file_meta_info

    try:
        meta = read_file_meta_info(path)
        uid, kind, syntax = (str(meta.get(name, "") or "") for name in _META)
    except OSError:
        raise
    except Exception as error:  # whatever a damaged file makes pydicom raise
        raise SourceError(f"it is no file of DICOM: {type(error).__name__}") from None
    if not (is_uid(uid) and is_uid(kind) and is_uid(syntax)):
        raise SourceError("its file meta information lacks UID, class or transfer syntax")
    return Outgoing(path, uid, kind, syntax, path.stat().st_size)


def rewrap(file: Outgoing, uid: str, out: Path) -> Outgoing:
    """Write a file with another UID in its meta information, before the same data set.

    Raises
    ------
    SourceError
        If its meta information cannot be written anew.
    """
    from pydicom.dataset import FileMetaDataset
    from pydicom.filereader import read_dataset
    from pydicom.filewriter import write_file_meta_info
    from pydicom.uid import UID

    with file.path.open("rb") as stream, out.open("wb") as opened:
        sink: Any = opened
        stream.seek(_PREAMBLE)
        try:
            found = read_dataset(stream, False, True, stop_when=lambda tag, *_: tag.group != 2)
            meta = FileMetaDataset(found)
            meta.MediaStorageSOPInstanceUID = UID(uid)
            sink.write(b"\0" * (_PREAMBLE - 4) + b"DICM")
            write_file_meta_info(sink, meta, enforce_standard=True)
        except Exception as error:  # whatever odd values make pydicom raise
            raise SourceError(f"its meta information is odd: {type(error).__name__}") from None
        shutil.copyfileobj(stream, sink)
    return replace(file, path=out, uid=uid, size=out.stat().st_size)


def describe_status(code: int) -> Refusal:
    """Return what a status of C-STORE, or a failure reason of STOW-RS, means."""
    general = next((at for at, span in _RANGES.items() if at <= code < at + span), code)
    said = _SAID.get(code) or _SAID.get(general) or "refused"
    return Refusal(f"0x{code:04X}: {said}", code == SYNTAX)
