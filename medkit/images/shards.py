"""Making one shard of a set, in a process that may die.

A shard is made whole or not at all: its images are decoded, resampled and written into the work
folder, read back and compared by hash, moved into the set, and only then described in a sidecar.
Whoever finds a sidecar whose shard has the hash it names leaves that shard alone. Nothing
is synced here, since a shard that a power cut took does not have that hash: `assembly` syncs all of
them at once.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medkit import workspace
from medkit.errors import ImageSetError, PixelError, WorkspaceError
from medkit.images import arrays, pixels, planes, resampling
from medkit.images.rows import Row, read_column

if TYPE_CHECKING:
    from medkit.images.normalisation import Recipe

# What a sidecar says of a frame: the columns of the set's table, or a refusal's code and detail.
Entry = dict[str, Any]
Codes = npt.NDArray[Any]
Rows = npt.NDArray[np.int64]
Members = Mapping[str, Sequence[Row]]


@dataclass(frozen=True)
class ShardTask:
    """What a worker needs to make one shard.

    Attributes
    ----------
    pixels, work : Path
        The set's Zarr group, and the work folder.
    layout : Layout
        Of the array that the shard belongs to.
    shard : int
        Its number.
    frames : mapping of int to mapping
        From row of the array to row of the catalog.
    recipe : Recipe
        How to normalise them.
    members : mapping of str to list of mapping
        The slices of the volumes that derived images are made of; see `selection`.
    condemned : frozenset of int
        Rows whose frames are refused untried: they end the process that decodes them.
    """

    pixels: Path
    work: Path
    layout: arrays.Layout
    shard: int
    frames: Mapping[int, Row]
    recipe: Recipe
    members: Members = field(default_factory=dict)
    condemned: frozenset[int] = frozenset()

    @property
    def target(self) -> Path:
        """The shard's file in the set."""
        return self.pixels / self.layout.name / self.layout.shard_path(self.shard)

    @property
    def sidecar(self) -> Path:
        """The description of the finished shard."""
        return self.work / f"{self.layout.name}-{self.shard}.json"


def build_shard(task: ShardTask) -> None:
    """Make a shard and its sidecar, unless both are there and fit.

    Raises
    ------
    ImageSetError
        If it cannot be written, or reads back otherwise.
    """
    if _is_built(task):
        return
    entries: list[Entry] = []
    rows: list[int] = []
    shard = np.empty((len(task.frames), *task.layout.image_shape), task.layout.dtype)
    for row, frame in task.frames.items():
        entry, codes = _try(task, row, frame)
        entries.append({"row": row, **entry})
        if codes is not None:
            shard[len(rows)] = codes
            rows.append(row)
    digest = _store(task, np.array(rows), shard[: len(rows)])
    beside = task.sidecar.with_suffix(".part")
    beside.write_text(json.dumps({"sha256": digest, "frames": entries}))
    beside.replace(task.sidecar)


def try_frame(item: tuple[int, Row, Recipe, Members]) -> None:
    """Normalise the frame of (row, frame, recipe, members) only to see the process survive."""
    normalise_frame(*item[1:])


def refuse(code: str, detail: str) -> Entry:
    """Return what stands for a frame that does not land."""
    return {"code": code, "detail": detail}


def normalise_frame(
    row: Row, recipe: Recipe, members: Members | None = None
) -> tuple[Entry, Codes | None]:
    """Return an image's columns and its codes, or a refusal and None; nothing is raised."""
    try:
        return _normalise(_read(row, members or {}), recipe)
    except PixelError as error:
        return refuse(error.code, error.detail), None
    except Exception as error:
        # A fault that nobody foresaw, in one frame of thousands: it is refused by name, and the
        # rest go on. Only its type is kept: its text may differ from run to run.
        return refuse("internal-error", type(error).__name__), None


def _read(row: Row, members: Members) -> pixels.Frame:
    volume = read_column(row, "members")
    return pixels.read_frame(row) if volume is None else planes.read_plane(row, members[volume])


def _normalise(frame: pixels.Frame, recipe: Recipe) -> tuple[Entry, Codes]:
    rows, columns = frame.values.shape[:2]
    geometry = resampling.plan_geometry(
        rows, columns, frame.spacing, recipe.size, recipe.geometry, recipe.mm
    )
    values, mask = resampling.resample(frame.values, frame.mask, geometry, recipe.filter)
    if not mask.any():
        raise PixelError("all-padding", f"what {recipe.geometry!r} keeps of it is padding")
    kind, _ = arrays.split_name(frame.array)
    codes = pixels.encode(values, mask, frame.stored_fill, frame.base, frame.k, kind)
    kept = ("units", "VOILUTFunction", "polarity", "source_sha256", "lossy", "constant")
    entry: Entry = {name: getattr(frame, name) for name in kept}
    numbers = {
        "slope": frame.code_slope,
        "intercept": frame.code_intercept,
        "full_low": frame.full_low,
        "full_high": frame.full_high,
        "WindowCenter": frame.WindowCenter,
        "WindowWidth": frame.WindowWidth,
        "fill_value": frame.fill,
        "padding_share": 1 - np.count_nonzero(mask) / mask.size,
    }
    entry |= {name: _finite(number) for name, number in numbers.items()}
    entry["affine"], entry["pad_box"] = list(geometry.affine), list(geometry.pad_box)
    entry["pixels_sha256"] = pixels.hash_values(codes)
    return entry, codes


def _finite(number: float | None) -> float | None:
    """Return a number that JSON can hold; what is endless has no value."""
    return None if number is None or not math.isfinite(number) else float(number)


def _try(task: ShardTask, row: int, frame: Row) -> tuple[Entry, Codes | None]:
    if row in task.condemned:
        return refuse("decoder-died", "it ended the process that decoded it"), None
    return normalise_frame(frame, task.recipe, task.members)


def _is_built(task: ShardTask) -> bool:
    try:
        expected = workspace.read_json(task.sidecar)["sha256"]
        return expected is None or bool(workspace.hash_file(task.target) == expected)
    except (WorkspaceError, FileNotFoundError):
        return False


def _store(task: ShardTask, rows: Rows, codes: Codes) -> str | None:
    """Put the images into the set, and return the hash of their file; None without any."""
    if not len(rows):
        task.target.unlink(missing_ok=True)  # of a try that died after it was moved
        return None
    try:
        return _write(task, rows, codes)
    except (OSError, ValueError) as error:  # tensorstore raises ValueError for a full disk too
        raise ImageSetError(f"the shard {task.target} cannot be written: {error}") from error


def _write(task: ShardTask, rows: Rows, codes: Codes) -> str:
    """Write the images in the work folder, read them back, move the file; return its hash."""
    beside = task.work / f"{task.layout.name}-{task.shard}"
    arrays.write_rows(arrays.create_array(beside, task.layout), rows, codes)
    read = arrays.open_array(beside)[rows].read().result()
    # As bytes, since NaN equals nothing; one by one, since what is compared stays in the cache.
    pairs = zip(read.view(np.uint8), codes.view(np.uint8), strict=True)
    if not all(np.array_equal(*pair) for pair in pairs):
        raise ImageSetError(
            f"the shard {task.target} does not read back as it was written; check that disk"
        )
    file = beside / task.layout.shard_path(task.shard)
    digest = workspace.hash_file(file)
    task.target.parent.mkdir(parents=True, exist_ok=True)
    file.replace(task.target)
    shutil.rmtree(beside)
    return digest
