"""The forms of an export: what each is made of, what it cannot hold, and who writes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from medkit.errors import UsageError
from medkit.images.exports.contents import Content, Picture, Rows, count_bytes, name_key
from medkit.images.exports.shards import (
    check_tensorflow,
    write_npz,
    write_parquet,
    write_pngs,
    write_records,
    write_tar,
    write_tiffs,
)

# Of pixels in a shard: few files for a large set, and little enough to hold one in memory.
_SHARD_BYTES = 128 << 20
# Files in a folder, so that any file browser still opens it.
_FOLDER_IMAGES = 1000

_NO_FLOATS = "PNG has no floating point; use --format tiff or npz, or give a --window"
_NO_DOUBLES = (
    "the pictures of a Hugging Face data set are read by Pillow, which has no 64-bit floating "
    "point; use --format npz or webdataset, or give a --window"
)


@dataclass(frozen=True)
class Form:
    """One form of an export.

    Attributes
    ----------
    pattern : str
        Path of a part: a shard, or a folder of files.
    write : callable
        Writes a part: (path, pictures, content).
    suffix : str
        Of the files in a folder; empty where a part is one file.
    uniform : bool
        All images of a part have one type and one number of channels.
    tensors : bool
        A window gives float32 from 0 to 1; else pictures of 8 bits.
    unfit : mapping of str to str
        Kinds of values that it cannot hold, and what would work.
    check : callable
        Raises a UsageError if something that it needs is missing.
    """

    pattern: str
    write: Callable[[Path, Iterator[Picture], Content], None]
    suffix: str = ""
    uniform: bool = False
    tensors: bool = False
    unfit: Mapping[str, str] = field(default_factory=dict)
    check: Callable[[], None] = lambda: None


FORMS = {
    "png": Form(
        "images/{part:05d}",
        write_pngs,
        suffix="png",
        unfit={"float32x1": _NO_FLOATS, "float64x1": _NO_FLOATS},
    ),
    "tiff": Form("images/{part:05d}", write_tiffs, suffix="tiff"),
    "npz": Form("{kind}-{part:06d}.npz", write_npz, uniform=True, tensors=True),
    "tfrecord": Form(
        "{kind}-{part:06d}.tfrecord",
        write_records,
        uniform=True,
        tensors=True,
        check=check_tensorflow,
    ),
    "webdataset": Form("images-{part:06d}.tar", write_tar),
    "huggingface": Form(
        "data/train-{part:05d}-of-{parts:05d}.parquet",
        write_parquet,
        unfit={"float64x1": _NO_DOUBLES},
    ),
}


class Part(NamedTuple):
    """A shard, or a folder of files.

    Attributes
    ----------
    path : str
        In the export, with ``/``.
    rows : ndarray of int64
        Which images are in it, by their places in the content.
    """

    path: str
    rows: Rows


def find_form(name: str) -> Form:
    """Return a form by its name.

    Raises
    ------
    UsageError
        If there is none, or what it needs is not installed.
    """
    if name not in FORMS:
        raise UsageError(f"no form of an export is named {name!r}; use {', '.join(FORMS)}")
    FORMS[name].check()
    return FORMS[name]


def check_kinds(form: Form, kinds: npt.NDArray[np.str_]) -> None:
    """Refuse what a form cannot hold.

    Raises
    ------
    UsageError
        It names what would work.
    """
    for kind, count in zip(*np.unique(kinds, return_counts=True), strict=True):
        if kind in form.unfit:
            dtype = str(kind).partition("x")[0]
            raise UsageError(f"{count} images have values of {dtype}: {form.unfit[str(kind)]}")
        if kind.startswith("uint8x") and kind not in ("uint8x1", "uint8x3"):
            raise UsageError(
                f"a picture has 1 or 3 channels, and so many windows may be given, not "
                f"{kind.partition('x')[2]}; npz and tfrecord take any number"
            )


def plan_parts(
    form: Form, kinds: npt.NDArray[np.str_], numbers: Rows, size: tuple[int, int]
) -> list[Part]:
    """Cut an export into parts, each written whole; which these are depends on nothing else.

    Parameters
    ----------
    form : Form
        Of the export.
    kinds : ndarray of str
        Of each image's values.
    numbers : ndarray of int64
        Of the images, in the set.
    size : tuple of int
        (rows, columns) of an image.
    """
    everything = np.arange(len(numbers), dtype=np.int64)
    if form.suffix:
        places, starts = np.unique(numbers // _FOLDER_IMAGES, return_index=True)
        cuts = np.split(everything, starts[1:])  # a set's numbers go upwards
        return [
            Part(form.pattern.format(part=place), rows)
            for place, rows in zip(places.tolist(), cuts, strict=True)
        ]
    groups = {kind: everything[kinds == kind] for kind in np.unique(kinds).tolist()}
    if not form.uniform:
        groups = {max(groups, key=lambda kind: count_bytes(kind, size)): everything}
    return [part for kind, rows in groups.items() for part in _cut(form, kind, rows, size)]


def name_files(form: Form, parts: list[Part], numbers: Rows) -> list[str]:
    """Return where each image lies."""
    names = [""] * len(numbers)
    for path, rows in parts:
        for row in rows.tolist():
            inside = f"/{name_key(int(numbers[row]))}.{form.suffix}" if form.suffix else ""
            names[row] = path + inside
    return names


def _cut(form: Form, kind: str, rows: Rows, size: tuple[int, int]) -> list[Part]:
    length = max(1, _SHARD_BYTES // count_bytes(kind, size))
    count = -(-len(rows) // length)
    return [
        Part(
            form.pattern.format(kind=kind, part=part, parts=count),
            rows[part * length : (part + 1) * length],
        )
        for part in range(count)
    ]
