"""Who writes the parts of an export: pictures, files of many images, and how each is encoded."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from medkit.engine import map_threads
from medkit.errors import UsageError
from medkit.images.exports.contents import Content, Picture
from medkit.workspace import sync

Encode = Callable[[Picture], bytes]

# What OpenCV writes PNG with. On CT of 12 bits: 1.5 ms an image instead of 10, and 1 % larger.
_PNG = {"level": 1, "strategy": 3, "filter": 16}
# Baseline TIFF's predictors: differences of integers, and of the bytes of floating point.
_PREDICTORS = {"u": 2, "f": 3}
_PER_CENTIMETRE = 3  # ResolutionUnit
# Images a row group of Parquet: what a reader takes at a time.
_GROUP = 64
# Types of columns, as ``datasets`` spells them.
_VALUES = {
    pa.string(): "string",
    pa.int64(): "int64",
    pa.float64(): "float64",
    pa.bool_(): "bool",
}


def encode_png(picture: Picture) -> bytes:
    """Return a PNG of 8 or 16 bits, grey or RGB."""
    return bytes(imagecodecs.png_encode(picture.values, **_PNG))


def encode_tiff(picture: Picture) -> bytes:
    """Return a TIFF of any depth, its spacing as resolution, and what its values mean.

    ImageDescription is JSON in ASCII: image, slope, intercept, units.
    """
    values, spacing = picture.values, picture.facts["spacing"]
    told = {name: picture.facts[name] for name in ("image", "slope", "intercept", "units")}
    # ImageDescription ends at the first NUL, and JSON escapes every character that could act.
    description = json.dumps(told)
    # libtiff leaves a byte between strips and tags as it found it: in memory of our own it is 0.
    room = bytearray(values.nbytes + values.nbytes // 8 + len(description) + (1 << 16))
    written = imagecodecs.tiff_encode(
        values,
        compression="deflate",
        level=1,  # twice as fast as the default, and 2 % larger
        predictor=_PREDICTORS[values.dtype.kind],
        description=description,
        resolution=(10 / spacing[1], 10 / spacing[0]) if spacing else None,
        resolutionunit=_PER_CENTIMETRE if spacing else None,
        out=room,
    )
    return bytes(written)


def encode_npy(picture: Picture) -> bytes:
    """Return a NumPy file."""
    content = io.BytesIO()
    np.save(content, picture.values, allow_pickle=False)
    return content.getvalue()


def write_pngs(folder: Path, pictures: Iterator[Picture], content: Content) -> None:
    """Write a folder of PNG files."""
    _write_files(folder, pictures, content, encode_png, "png")


def write_tiffs(folder: Path, pictures: Iterator[Picture], content: Content) -> None:
    """Write a folder of TIFF files."""
    _write_files(folder, pictures, content, encode_tiff, "tiff")


def write_npz(path: Path, pictures: Iterator[Picture], content: Content) -> None:
    """Write an archive of arrays with a row an image; see `_tabulate`."""
    taken = list(pictures)
    arrays = _tabulate(taken, content)
    pixels = np.empty((len(taken), *taken[0].values.shape), taken[0].values.dtype)
    while taken:  # so that no image is there twice
        last = taken.pop()
        pixels[len(taken)] = last.values
    with path.open("wb") as file:  # by a name, NumPy would add a suffix
        np.savez(file, pixels=pixels, **arrays)


def check_tensorflow() -> None:
    """Raise a UsageError if TensorFlow is not there."""
    if importlib.util.find_spec("tensorflow") is None:
        raise UsageError(
            "records of TensorFlow are written with TensorFlow, which is not installed: pip "
            "install tensorflow, or use --format npz or webdataset, which need nothing"
        )


def write_records(path: Path, pictures: Iterator[Picture], content: Content) -> None:
    """Write a TFRecord file, a ``tf.train.Example`` an image.

    Its features: ``image`` (int64), ``shape`` (3 int64: H, W, C), ``pixels`` (bytes,
    little-endian, in C order), ``rescale`` (bytes: slope and intercept, two float64 in
    little-endian, because a FloatList has 32 bits), ``split_group`` (bytes, empty where no person
    is known), and ``label`` and ``fold`` (int64) where there are some.
    """
    import tensorflow as tf

    with tf.io.TFRecordWriter(os.fspath(path)) as writer:
        for picture in pictures:
            features = {
                name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
                if isinstance(value, bytes)
                else tf.train.Feature(int64_list=tf.train.Int64List(value=value))
                for name, value in _list_features(picture, content).items()
            }
            example = tf.train.Example(features=tf.train.Features(feature=features))
            # Without it, the order of a map's entries is nobody's promise.
            writer.write(example.SerializeToString(deterministic=True))


def write_tar(path: Path, pictures: Iterator[Picture], content: Content) -> None:
    """Write a tar of WebDataset: KEY.png or KEY.npy, KEY.json, and KEY.cls where there is a label.

    What PNG readers make eight bits of goes as ``.npy``, which WebDataset decodes at full depth.
    """

    def encode(picture: Picture) -> tuple[Picture, str, bytes]:
        if picture.values.dtype == np.uint8:
            return picture, "png", encode_png(picture)
        return picture, "npy", encode_npy(picture)

    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for picture, suffix, data in map_threads(encode, pictures, content.threads):
            _add(archive, f"{picture.key}.{suffix}", data)
            facts = json.dumps(picture.facts, sort_keys=True, allow_nan=False)
            _add(archive, f"{picture.key}.json", facts.encode())
            if content.classes:
                _add(archive, f"{picture.key}.cls", str(content.number_class(picture)).encode())


def write_parquet(path: Path, pictures: Iterator[Picture], content: Content) -> None:
    """Write a Parquet file whose schema tells ``datasets`` what its columns are.

    ``image`` is a picture, encoded; the image's number is ``image_id``. Codes of 16 bits are a PNG
    of 16 bits, and floating point is a TIFF.
    """
    schema = _plan_schema(content)
    encoded = map_threads(lambda picture: _encode(picture, content), pictures, content.threads)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while rows := list(islice(encoded, _GROUP)):
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def _write_files(
    folder: Path, pictures: Iterator[Picture], content: Content, encode: Encode, suffix: str
) -> None:
    def write(picture: Picture) -> None:
        path = folder / f"{picture.key}.{suffix}"
        path.write_bytes(encode(picture))
        sync(path)

    folder.mkdir()
    for _ in map_threads(write, pictures, content.threads):
        pass


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # of no owner, at no time
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def _tabulate(pictures: list[Picture], content: Content) -> dict[str, Any]:
    """Return what a shard says beside the pixels: an array a name, a row an image.

    None of them is of objects, which NumPy would pickle.
    """
    facts = [picture.facts for picture in pictures]
    arrays: dict[str, Any] = {
        "image": np.array([row["image"] for row in facts], np.int64),
        "slope": np.array([row["slope"] for row in facts], np.float64),
        "intercept": np.array([row["intercept"] for row in facts], np.float64),
        "split_group": np.array([row["split_group"] or "" for row in facts], np.str_),
    }
    if content.classes:
        numbers = [content.number_class(picture) for picture in pictures]
        arrays["label"] = np.array(numbers, np.int64)
        arrays["classes"] = np.array(content.classes, np.str_)
    if "fold" in facts[0]:
        arrays["fold"] = np.array([row["fold"] for row in facts], np.int64)
    return arrays


def _list_features(picture: Picture, content: Content) -> dict[str, bytes | list[int]]:
    values, facts = picture.values, picture.facts
    shape = values.shape if values.ndim == 3 else (*values.shape, 1)
    features: dict[str, bytes | list[int]] = {
        "image": [facts["image"]],
        "shape": list(shape),
        "pixels": values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes(),
        "rescale": np.array([facts["slope"], facts["intercept"]], "<f8").tobytes(),
        "split_group": (facts["split_group"] or "").encode(),
    }
    if (number := content.number_class(picture)) is not None:
        features["label"] = [number]
    if "fold" in facts:
        features["fold"] = [facts["fold"]]
    return features


def _plan_schema(content: Content) -> pa.Schema:
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    others = [
        pa.field("label", pa.int64()) if field.name == "label" else field
        for field in content.metadata.schema
        if field.name not in ("image", "file_name")
    ]
    schema = pa.schema([("image", picture), ("image_id", pa.int64()), *others])
    features = {field.name: _describe(field, content.classes) for field in schema}
    told = json.dumps({"info": {"features": features}}, sort_keys=True)
    return schema.with_metadata({"huggingface": told})


def _describe(field: pa.Field, classes: tuple[str, ...]) -> dict[str, Any]:
    """Return a column as ``datasets.Features`` spells it."""
    if field.name == "image":
        return {"_type": "Image"}
    if field.name == "label":
        return {"names": list(classes), "_type": "ClassLabel"}
    if pa.types.is_list(field.type):
        value = {"dtype": _VALUES[field.type.value_type], "_type": "Value"}
        # Spelled so by datasets 2 and 3, and read by those that came after.
        return {"feature": value, "_type": "Sequence"}
    return {"dtype": _VALUES[field.type], "_type": "Value"}


def _encode(picture: Picture, content: Content) -> dict[str, Any]:
    floating = picture.values.dtype.kind == "f"
    suffix, encode = ("tiff", encode_tiff) if floating else ("png", encode_png)
    image = {"bytes": encode(picture), "path": f"{picture.key}.{suffix}"}
    row = {**picture.facts, "image": image, "image_id": picture.facts["image"]}
    if content.classes:
        row["label"] = content.number_class(picture)
    return row
