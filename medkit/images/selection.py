"""Which frames of a catalog become images of a set, and why the others do not.

Counted in frames, and where a file has none, in files: what is selected and what is left out, by
reason, add up to all that the catalog knows as DICOM objects and pictures.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

from medkit.images.imageset import CATALOG_FIELDS

if TYPE_CHECKING:
    from medkit.catalog.store import Catalog

_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"  # VL Whole Slide Microscopy Image Storage


def _is_localizer(rows: pd.DataFrame) -> pd.Series[bool]:
    # Value 3 of Image Type (PS3.3 C.7.6.1.1.2; for CT, C.8.2.1.1.1).
    return rows["ImageType"].map(lambda values: _third(values) == "LOCALIZER").astype(bool)


def _is_capture(rows: pd.DataFrame) -> pd.Series[bool]:
    # Secondary Capture, and its four multi-frame classes .7.1 to .7.4 (PS3.4 B.5).
    classes = rows["SOPClassUID"].fillna("")
    return (classes == _CAPTURE) | classes.str.startswith(f"{_CAPTURE}.")


# Reasons, in the order that they are looked for; ``include`` lifts one by its name.
EXCLUSIONS: dict[str, Callable[[pd.DataFrame], pd.Series[bool]]] = {
    "localizer": _is_localizer,
    "secondary-capture": _is_capture,
    "slide": lambda rows: rows["SOPClassUID"].fillna("") == _SLIDE,
}
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


@dataclass(frozen=True)
class Selection:
    """Frames that were selected, and how many were not.

    Attributes
    ----------
    rows : DataFrame
        Rows of the catalog's view ``images``, in its order.
    left_out : dict of str to int
        Counts by reason.
    """

    rows: pd.DataFrame
    left_out: dict[str, int]

    @property
    def key(self) -> str:
        """A hash of the frames, their files' state, and what a set's table says of them."""
        columns = [*(field.name for field in CATALOG_FIELDS), "size", "mtime_ns"]
        digest = hashlib.sha256()
        for record in iterate_records(self.rows[columns]):
            digest.update(json.dumps(record).encode())
        return digest.hexdigest()


def iterate_records(rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield rows as plain values of Python, None where there is none."""
    for batch in pa.Table.from_pandas(rows, preserve_index=False).to_batches(4096):
        yield from batch.to_pylist()


def select_frames(catalog: Catalog, where: str | None, include: Sequence[str]) -> Selection:
    """Return the frames to normalise.

    Parameters
    ----------
    catalog : Catalog
        A snapshot.
    where : str, optional
        An SQL condition on the view ``images``. It narrows: what is left out by default stays
        out, as who asks for one modality does not ask for its localizers.
    include : sequence of str
        Exclusions to lift, of `EXCLUSIONS`.

    Raises
    ------
    UsageError
        If the condition is not SQL over the view's columns.
    """
    rows = catalog.select(where)
    reasons = pd.Series("", index=rows.index, dtype=object)
    for reason, applies in EXCLUSIONS.items():
        if reason not in include:
            reasons[(reasons == "") & applies(rows)] = reason
    left_out = Counter(reasons[reasons != ""])
    left_out["where"] = int(catalog.query("SELECT count(*) AS n FROM images")["n"][0]) - len(rows)
    outside = catalog.query(_OUTSIDE)
    left_out.update(dict(zip(outside["reason"], outside["frames"], strict=True)))
    chosen = rows[reasons == ""].reset_index(drop=True)
    return Selection(chosen, {reason: int(left_out[reason]) for reason in sorted(+left_out)})


def _third(values: Any) -> str:
    # Padded to an even length by some writers.
    return str(values[2]).strip() if values is not None and len(values) > 2 else ""
