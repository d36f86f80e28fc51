"""Which frames of a catalog become images of a set, and why the others do not.

Counted in frames, and where a file has none, in files: what is selected and what is left out, by
reason, add up to all that the catalog knows as DICOM objects and pictures. Images need not be as
many as frames: a mosaic is one frame and many images, a projection one image of many frames.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from medkit.errors import PixelError, UsageError
from medkit.images import grids, mosaics
from medkit.images.imageset import CATALOG_FIELDS
from medkit.images.packing import Positions, pack_batches, pack_values, unpack, unpack_rows
from medkit.images.rows import Row

if TYPE_CHECKING:
    from medkit.catalog.store import Catalog

Numbers = npt.NDArray[np.intp]
Truths = npt.NDArray[np.bool_]
Check = Callable[[pa.RecordBatch], Truths]

_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"  # VL Whole Slide Microscopy Image Storage


def _is_localizer(rows: pa.RecordBatch) -> Truths:
    # Value 3 of Image Type (PS3.3 C.7.6.1.1.2; for CT, C.8.2.1.1.1), padded by some writers.
    third = pc.list_slice(rows["ImageType"], 2, 3, return_fixed_size_list=True)
    return _decide(pc.equal(pc.utf8_trim_whitespace(pc.list_element(third, 0)), "LOCALIZER"))


def _is_capture(rows: pa.RecordBatch) -> Truths:
    # Secondary Capture, and its four multi-frame classes .7.1 to .7.4 (PS3.4 B.5).
    classes = rows["SOPClassUID"]
    return _decide(pc.or_(pc.equal(classes, _CAPTURE), pc.starts_with(classes, f"{_CAPTURE}.")))


def _is_slide(rows: pa.RecordBatch) -> Truths:
    return _decide(pc.equal(rows["SOPClassUID"], _SLIDE))


def _lacks_volume(rows: pa.RecordBatch) -> Truths:
    return _decide(pc.is_null(rows["volume"]))


def _decide(answers: pa.BooleanArray) -> Truths:
    """Return answers with no where nobody knows."""
    found: Truths = answers.fill_null(False).to_numpy(zero_copy_only=False)
    return found


# Reasons, in the order that they are looked for; ``include`` lifts one by its name.
EXCLUSIONS: dict[str, Check] = {
    "localizer": _is_localizer,
    "secondary-capture": _is_capture,
    "slide": _is_slide,
}
# Columns that rows of a selection have beside those of the view.
_MADE = ("tile", "tiles", "plane", "plane_index", "members")
_BATCH = 8192  # rows that are looked at, and packed, at a time
# What is not in the view ``images``, whatever is asked for.
_OUTSIDE = """
SELECT
    CASE WHEN instances.duplicate = 'alias' THEN 'alias'
        WHEN files.kind = 'other-dicom' THEN 'not-an-image'
        ELSE 'not-2d' END AS reason,
    count(*) AS frames
FROM files
LEFT JOIN instances USING (file)
LEFT JOIN frames USING (file)
ANTI JOIN images USING (file, frame)
WHERE NOT files.vanished AND files.kind IN ('image', 'other-dicom', 'non-dicom')
GROUP BY ALL
"""


class SliceRule(NamedTuple):
    """Which slices of a volume become images; see `parse_slices`."""

    name: str
    number: int

    def pick(self, numbers: Numbers) -> Truths:
        """Say of slices, that are given by their numbers and in their order, which to take."""
        return _RULES[self.name](numbers, self.number)


def _pick_every(numbers: Numbers, step: int) -> Truths:
    return np.asarray(numbers % step == 0)


def _pick_middle(numbers: Numbers, count: int) -> Truths:
    first = max(0, (len(numbers) - count) // 2)  # the lower of two
    places = np.arange(len(numbers))
    return (first <= places) & (places < first + count)


_RULES: dict[str, Callable[[Numbers, int], Truths]] = {
    "all": lambda numbers, _: np.ones(len(numbers), dtype=bool),
    "every": _pick_every,
    "middle": _pick_middle,
    "mip": lambda numbers, _: np.ones(len(numbers), dtype=bool),
}
_RULE = re.compile(r"(all|middle|mip)|(every|middle):([1-9][0-9]{0,8})", re.ASCII)


def parse_slices(text: str) -> SliceRule:
    """Return the rule that a text stands for.

    Parameters
    ----------
    text : str
        ``"all"``; ``"every:K"``: those whose number in the volume, from 0, is a multiple of K;
        ``"middle"``, ``"middle:N"``: the middle one, or N around it; ``"mip"``: none, but the
        greatest value along the volume's third axis.

    Raises
    ------
    UsageError
        If it is none of these.
    """
    found = _RULE.fullmatch(text)
    if not found:
        raise UsageError(
            f"slices are chosen by a rule, and {text!r} is none; use all, every:K such as every:4, "
            "middle, middle:N such as middle:3, or mip"
        )
    alone, named, number = found.groups()
    return SliceRule(alone or named, int(number or 1))


@dataclass(frozen=True, eq=False)
class Members(Mapping[str, list[dict[str, Any]]]):
    """The slices that images are made of, by the names of their volumes.

    A volume's rows are unpacked when they are asked for.

    Attributes
    ----------
    rows : Table
        Packed rows of ``images``.
    places : dict of str to ndarray
        Which of them are of a volume, in the order of its slices.
    """

    rows: pa.Table = field(default_factory=lambda: pa.table({}))
    places: dict[str, Positions] = field(default_factory=dict)
    _last: dict[str, list[dict[str, Any]]] = field(default_factory=dict, repr=False, compare=False)

    def __getitem__(self, volume: str) -> list[dict[str, Any]]:
        if volume not in self._last:
            rows = list(unpack_rows(self.rows, self.places[volume]))
            self._last.clear()
            self._last[volume] = rows
        return self._last[volume]

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True)
class Selection:
    """Frames that were selected, and how many were not.

    Attributes
    ----------
    rows : Table
        An image each: rows of the catalog's view ``images``, in the order of `Catalog.select`, as
        `packing` has them, with five columns more. ``tile`` and ``tiles`` are those of
        `mosaics.cut_rows`. The others are of images that are made of a whole volume, whose row is
        that of the slice nearest to them: ``members`` names the volume, ``plane`` is its plane,
        null where that is the stored one, and ``plane_index`` its number, null in a projection.
    left_out : dict of str to int
        Counts of frames by reason.
    members : Members
        The slices of the volumes that ``rows`` name.
    frames : int
        How many frames are selected.
    """

    rows: pa.Table
    left_out: dict[str, int]
    members: Members = field(default_factory=Members)
    frames: int = 0

    @property
    def key(self) -> str:
        """A hash of the frames, their files' state, and what a set's table says of them."""
        columns = [each.name for each in CATALOG_FIELDS if each.name not in _MADE]
        columns += ["size", "mtime_ns"]
        parts = [unpack_rows(self.rows.select(columns))]
        if any(self.rows[name].null_count < len(self.rows) for name in ("tile", "members")):
            parts.append(unpack_rows(self.rows.select(list(_MADE))))
        slices = self.members.rows.select(columns) if self.members else None
        parts += [unpack_rows(slices, places) for places in self.members.places.values()]
        digest = hashlib.sha256()
        for record in chain.from_iterable(parts):
            digest.update(json.dumps(record).encode())
        return digest.hexdigest()


def select_frames(
    catalog: Catalog,
    where: str | None,
    include: Sequence[str],
    slices: str = "all",
    plane: str = "stored",
) -> Selection:
    """Return the frames to normalise.

    Parameters
    ----------
    catalog : Catalog
        A snapshot.
    where : str, optional
        An SQL condition on the view ``images``. It narrows: what is left out by default stays
        out, as who asks for one modality does not ask for its localizers. A volume is made of
        those of its slices that fulfil it.
    include : sequence of str
        Exclusions to lift, of `EXCLUSIONS`.
    slices : str
        Which slices of each volume, see `parse_slices`. An image of no volume is one of its own,
        but for projections; a mosaic is one of its tiles.
    plane : str
        ``"stored"``, or ``"axial"``, ``"coronal"`` or ``"sagittal"``: planes through the volume,
        among which ``slices`` chooses.

    Raises
    ------
    UsageError
        If the condition is not SQL over the view's columns, or there is no such rule or plane.
    """
    rule = parse_slices(slices)
    if plane not in grids.PLANES:
        raise UsageError(f"no plane is named {plane!r}; use {', '.join(grids.PLANES)}")
    derived = rule.name == "mip" or plane != "stored"
    checks = {reason: check for reason, check in EXCLUSIONS.items() if reason not in include}
    if derived:
        checks["no-volume"] = _lacks_volume
    chosen, left_out = _read_rows(catalog, where, checks)
    if not derived and rule.name != "all":
        taken = _pick_slices(chosen, rule)
        left_out["slice-rule"] = int((~taken).sum())
        chosen = chosen.filter(taken)
    made, members = _derive(chosen, rule, plane) if derived else (_keep(chosen), Members())
    counts = {reason: left_out[reason] for reason in sorted(+left_out)}
    return Selection(mosaics.cut_rows(made, rule.pick), counts, members, len(chosen))


def _read_rows(
    catalog: Catalog, where: str | None, checks: Mapping[str, Check]
) -> tuple[pa.Table, Counter[str]]:
    """Return the rows that fulfil a condition and no check, packed, and how many do not."""
    total = int(catalog.query("SELECT count(*) AS n FROM images")["n"][0])
    outside = catalog.query(_OUTSIDE)
    reasons: Counter[str] = Counter()

    def pick(stream: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        for batch in stream:
            for first in range(0, len(batch), _BATCH):
                some = batch.slice(first, _BATCH)
                found = _find_reasons(some, checks)
                reasons.update(found)
                yield some.take(np.flatnonzero(found == ""))  # which shares no memory with it

    stream = catalog.stream_images(where)
    rows = pack_batches(pick(stream), stream.schema)
    left_out = Counter({reason: count for reason, count in reasons.items() if reason})
    left_out["where"] = total - reasons.total()
    left_out.update(dict(zip(outside["reason"], map(int, outside["frames"]), strict=True)))
    return rows, left_out


def _find_reasons(rows: pa.RecordBatch, checks: Mapping[str, Check]) -> npt.NDArray[np.object_]:
    """Return why each row is left out, an empty text where it is not."""
    reasons = np.full(len(rows), "", dtype=object)
    for reason, applies in checks.items():
        reasons[(reasons == "") & applies(rows)] = reason
    return reasons


def _keep(rows: pa.Table) -> pa.Table:
    """Return rows of frames that become images as they are."""
    none = [None] * len(rows)
    return _mark(rows, none, none, none)


def _mark(
    rows: pa.Table,
    planes: Sequence[str | None],
    members: Sequence[str | None],
    indices: Sequence[int | None],
) -> pa.Table:
    """Return rows with what says which images of volumes they are."""
    return (
        rows.append_column("plane", pack_values(planes, pa.string()))
        .append_column("members", pack_values(members, pa.string()))
        .append_column("plane_index", pack_values(indices, pa.int64()))
    )


def _pick_slices(rows: pa.Table, rule: SliceRule) -> Truths:
    """Say which frames to take."""
    taken = np.ones(len(rows), dtype=bool)
    # Of an image of no volume it is null.
    numbers = unpack(rows.select(["slice"]))["slice"].cast(pa.int64()).fill_null(-1).to_numpy()
    for places in _find_volumes(rows).values():
        taken[places] = rule.pick(numbers[places])
    return taken


def _find_volumes(rows: pa.Table) -> dict[str, Positions]:
    """Return the places of each volume's rows, in the order of its slices."""
    inside = np.flatnonzero(rows["volume"].is_valid())
    if not len(inside):
        return {}
    told = unpack(rows.select(["volume", "slice"]).take(inside)).combine_chunks()
    volumes = told["volume"].chunk(0).dictionary_encode()
    codes = volumes.indices.to_numpy()
    order = np.lexsort((told["slice"].to_numpy(), codes))
    ends = np.cumsum(np.bincount(codes))
    return dict(
        zip(volumes.dictionary.to_pylist(), np.split(inside[order], ends[:-1]), strict=True)
    )


def _derive(rows: pa.Table, rule: SliceRule, plane: str) -> tuple[pa.Table, Members]:
    """Return a row for each image that is made of a volume, and the slices of the volumes."""
    volumes = _find_volumes(rows)
    geometry = rows.select(list(grids.GEOMETRY_COLUMNS))
    source: list[int] = []
    indices: list[int | None] = []
    names: list[str] = []
    for name, places in volumes.items():
        slices = list(unpack_rows(geometry, places))
        for nearest, index in _plan_volume(slices, rule, plane):
            source.append(int(places[nearest]))
            indices.append(index)
            names.append(name)
    planes = [None if plane == "stored" else plane] * len(source)
    taken = rows.take(pa.array(source, pa.int64()))
    return _mark(taken, planes, names, indices), Members(rows, volumes)


def _plan_volume(
    slices: Sequence[Row], rule: SliceRule, plane: str
) -> list[tuple[int, int | None]]:
    """Return the number of the nearest slice, and the index, of each plane of a volume.

    One whose planes cannot be told has one image, to be refused when it is tried.
    """
    middle: list[tuple[int, int | None]] = [((len(slices) - 1) // 2, None)]
    if rule.name == "mip":
        return middle
    try:
        lattice = grids.read_lattice(slices)
        grid = grids.plan_grid(lattice, plane)
    except PixelError:
        return middle
    nearest = grids.find_nearest(lattice, grid)
    picked = np.flatnonzero(rule.pick(np.arange(len(nearest)))).tolist()
    return [(nearest[index], index) for index in picked]
