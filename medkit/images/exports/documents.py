"""The page that stands beside an export: what it is, and how to read it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medkit import __version__
from medkit.images.arrays import split_name
from medkit.images.exports.licences import Terms, name_licence
from medkit.text import reveal

_READ_TABLE = """\
    import csv

    import numpy as np
    from PIL import Image

    with open("metadata.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    pixels = np.array(Image.open(rows[0]["file_name"]))
"""
_VALUE_TABLE = """\
    values = pixels * float(rows[0]["slope"]) + float(rows[0]["intercept"])
"""
_READ_NPZ = """\
    import numpy as np

    shard = np.load("{first}")
    image, pixels = shard["image"][0], shard["pixels"][0]
"""
_VALUE_NPZ = """\
    values = pixels * shard["slope"][0] + shard["intercept"][0]
"""
_READ_RECORDS = """\
    import tensorflow as tf

    spec = {{
        "image": tf.io.FixedLenFeature([], tf.int64),
        "shape": tf.io.FixedLenFeature([3], tf.int64),
        "pixels": tf.io.FixedLenFeature([], tf.string),
        "rescale": tf.io.FixedLenFeature([], tf.string),
    }}

    def parse(record):
        fields = tf.io.parse_single_example(record, spec)
        pixels = tf.reshape(tf.io.decode_raw(fields["pixels"], tf.{dtype}), fields["shape"])
        return fields["image"], pixels, tf.io.decode_raw(fields["rescale"], tf.float64)

    dataset = tf.data.TFRecordDataset(["{first}"]).map(parse)
    image, pixels, (slope, intercept) = next(iter(dataset))
"""
_VALUE_RECORDS = """\
    values = tf.cast(pixels, tf.float64) * slope + intercept
"""
_READ_TAR = """\
    import webdataset

    dataset = webdataset.WebDataset("{first}", shardshuffle=False).decode("rgb8")
    sample = next(iter(dataset))
    pixels = sample["npy"] if "npy" in sample else sample["png"]
"""
_VALUE_TAR = """\
    values = pixels * sample["json"]["slope"] + sample["json"]["intercept"]
"""
_READ_PARQUET = """\
    from pathlib import Path

    import datasets
    import numpy as np

    dataset = datasets.load_dataset(str(Path.cwd()), split="train")
    row = dataset[0]
    pixels = np.array(row["image"])
"""
_VALUE_PARQUET = """\
    values = pixels * row["slope"] + row["intercept"]
"""
# How a form is read, and how real-world values come of what was read.
SNIPPETS = {
    "png": (_READ_TABLE, _VALUE_TABLE),
    "tiff": (_READ_TABLE, _VALUE_TABLE),
    "npz": (_READ_NPZ, _VALUE_NPZ),
    "tfrecord": (_READ_RECORDS, _VALUE_RECORDS),
    "webdataset": (_READ_TAR, _VALUE_TAR),
    "huggingface": (_READ_PARQUET, _VALUE_PARQUET),
}

_CODES = """\
Pixels are the set's stored codes, at full depth: nothing is windowed, clipped or cut to 8 bits.
The real-world value of a pixel is `code * slope + intercept`, in float64; both numbers, and the
units where they are known, stand in the metadata of each image. They differ from image to image,
so codes of two images do not compare, and values do."""
_VIEWS = """\
Pixels are what the window `{window}` shows, from 0 to {top}; what lies beyond it is cut, and
real-world values cannot be had back."""
_PERSONS = """\
Images of one person must not stand on both sides of a split, or a number measured on one side
says little of new patients. **Split by `split_group`**, never by image: it is equal for persons
that share pixels, too. `person` and `split_group` are hashes of source and PatientID. They name
nobody, but they are no encryption: who has a list of PatientIDs can find them in it."""
_HIDDEN = """\
Paths of the set's files are left out, and so are PatientID, the UIDs and StudyDate: unique numbers
and dates of an examination lead to a person. Ages above 89 are 90, and what is no age is left out.
`image`, the set's id and `source_sha256` lead whoever has the set back to them."""
_SHOWN = """\
PatientID, the UIDs and StudyDate were **kept on request** (`--keep-identifiers`): whoever gets
this folder gets them. Paths of the set's files are left out."""
_BURNED = """\
Nothing looked for names that are burned into pixels; the column `BurnedInAnnotation` says what
the headers say of that, where they do."""

_PILLOW_COLOUR = """\
Some images have 16 bits of red, green and blue. Pillow reads 8 of them and does not say so;
imagecodecs, OpenCV and SimpleITK read all."""
_PILLOW_DOUBLE = """\
Some images have 64-bit floating point, which Pillow cannot open; tifffile and imagecodecs can."""
# What usual readers make of some kinds of values, by form.
_READERS = {
    "png": {"uint16x3": _PILLOW_COLOUR},
    "tiff": {"uint16x3": _PILLOW_COLOUR, "float64x1": _PILLOW_DOUBLE},
    "huggingface": {"uint16x3": _PILLOW_COLOUR},
}
# How Hugging Face sorts data sets by their images.
_SIZES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"),
)


def write_readme(
    facts: Mapping[str, Any], columns: Sequence[str], first: str, terms: Iterable[Terms]
) -> str:
    """Return the page.

    Parameters
    ----------
    facts : mapping
        What ``dataset.json`` says.
    columns : sequence of str
        Of the metadata.
    first : str
        Path of the first part.
    terms : iterable of Terms
        Of the sources; a data set of Hugging Face begins with their licence.
    """
    form, name = facts["form"], facts["set"]["name"]
    blocks = [
        f"# {_escape(name)}",
        f"Images of the set {_escape(name)} (id {facts['set']['id']}), exported by medkit "
        f"{__version__} as {form}.",
        _tell_counts(facts),
        "## Terms",
        *_tell_terms(facts["sources"]),
        "## Pixels",
        _tell_pixels(facts),
        *(words for kind, words in _READERS.get(form, {}).items() if kind in facts["kinds"]),
        "## Persons",
        _PERSONS,
        *_tell_unknown(facts["unknown_persons"]),
        _SHOWN if facts["identifiers"] else _HIDDEN,
        *_tell_burned(facts["burned_in"]),
        _BURNED,
        "## Files",
        _tell_files(columns),
        "## How to read it",
        write_snippet(facts, first).rstrip("\n"),
    ]
    card = _write_card(name, facts["exported"], terms) if form == "huggingface" else ""
    return card + "\n\n".join(blocks) + "\n"


def write_snippet(facts: Mapping[str, Any], first: str) -> str:
    """Return Python that reads the first image of an export, run in its folder."""
    read, value = SNIPPETS[facts["form"]]
    dtype = split_name(first.partition("-")[0])[0].name if facts["form"] == "tfrecord" else ""
    return read.format(first=first, dtype=dtype) + (value if facts["window"] is None else "")


def _write_card(set_name: str, images: int, terms: Iterable[Terms]) -> str:
    """Return the YAML that a card begins with; every text in it is quoted as JSON, which is YAML.

    Parameters
    ----------
    set_name : str
        Of the set.
    images : int
        Of the export.
    terms : iterable of Terms
        Of all its sources.
    """
    size = next((name for most, name in _SIZES if images < most), "100M<n<1B")
    licence = name_licence(terms)
    named = ["license_name: see-licences", "license_link: LICENCES.txt"]
    lines = [
        "---",
        f"license: {licence}",
        *(named if licence == "other" else []),
        f"pretty_name: {json.dumps(reveal(set_name), ensure_ascii=False)}",
        "size_categories:",
        f"- {size}",
        "tags:",
        "- medical",
        "configs:",
        "- config_name: default",
        "  data_files:",
        "  - split: train",
        "    path: data/train-*.parquet",
        "---",
        "",
    ]
    return "\n".join(lines)


def _tell_counts(facts: Mapping[str, Any]) -> str:
    left = ", ".join(f"{count} {reason}" for reason, count in facts["left_out"].items())
    kinds = ", ".join(f"{count} of {kind}" for kind, count in facts["kinds"].items())
    about = f"{facts['exported']} of {facts['images']} images ({kinds})"
    about += f"; left out: {left}" if left else ""
    if facts["label"] is None:
        return f"{about}."
    number = len(facts["classes"])
    return (
        f"{about}. The label is {_escape(facts['label'])}, of {number} classes; a class's number "
        "is its place in `classes` of `dataset.json`, from 0."
    )


def _tell_terms(sources: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [f"`LICENCES.txt` has the licence and citation of every source ({len(sources)})."]
    return lines + [
        f"**{_escape(source['source'])}** ({source['images']} images): {source['notice']}."
        for source in sources
        if source["notice"]
    ]


def _tell_pixels(facts: Mapping[str, Any]) -> str:
    if facts["window"] is None:
        return _CODES
    top = 1 if any(kind.startswith("float") for kind in facts["kinds"]) else 255
    return _VIEWS.format(window=facts["window"], top=top)


def _tell_unknown(images: int) -> list[str]:
    words = f"Of {images} images nobody knows the person: their `split_group` is empty."
    return [words] if images else []


def _tell_burned(images: int) -> list[str]:
    words = f"**{images} images say in their header that text is burned in**: it may name somebody."
    return [words] if images else []


def _tell_files(columns: Sequence[str]) -> str:
    return (
        "`dataset.json` says what this was made from: set, recipe, catalog snapshot, versions. "
        "`SHA256SUMS` checks every other file (`sha256sum -c SHA256SUMS`). `metadata.csv` and "
        f"`images.parquet` have a row an image: {', '.join(f'`{name}`' for name in columns)}. "
        "`file_name` is the file that holds it, `spacing` the mm from row to row and from column "
        "to column, and `affine` leads from pixels here to those of the source. Values are as "
        "files have them: a text that a spreadsheet takes for a formula is still that text."
    )


def _escape(text: str) -> str:
    """Return text that Markdown and HTML show as it is."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~&-])", r"\\\1", reveal(text))
