"""What a set is made of: counts by what headers say, and what a person should know of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from medkit.evaluation.evidence import Concern
from medkit.evaluation.survey import Group

NOT_GIVEN = "not given"
_MOST_VALUES = 12  # rows of a table
_MOST_CLASSES = 6  # columns of a table


def tell(value: Any) -> str:
    """Return a value of a header as text."""
    return NOT_GIVEN if pd.isna(value) or value == "" else str(value)


def count_parts(table: pd.DataFrame, classes: Sequence[str] | None) -> dict[str, dict[str, Any]]:
    """Count images and persons by what their headers say.

    Parameters
    ----------
    table : DataFrame
        Of a set.
    classes : sequence of str, optional
        Of each image; few enough ones are counted beside, so that a scanner that goes with a
        class is seen.

    Returns
    -------
    dict
        By title: ``classes`` (names of columns) and ``rows`` of ``value``, ``images``,
        ``persons``, ``share`` and ``of_classes``. Rows add up to all images.
    """
    size = table["Columns"].map(tell) + " × " + table["Rows"].map(tell)
    parts = {
        "Modality": table["Modality"].map(tell),
        "Manufacturer": table["Manufacturer"].map(tell),
        "Model": table["ManufacturerModelName"].map(tell),
        "Size of the source, columns × rows": size,
        "Photometric interpretation": table["PhotometricInterpretation"].map(tell),
        "Polarity": table["polarity"].map(tell),
        "Compression": table["lossy"].map({True: "lossy", False: "lossless"}),
        "Text burned in": table["BurnedInAnnotation"].map(tell),
        "Source": table["source"].map(tell),
        "Array": table["array"].map(tell),
    }
    named = [] if classes is None else sorted(set(classes))
    named = named if len(named) <= _MOST_CLASSES else []
    return {
        title: {"classes": named, "rows": _count_values(table, values, classes, named)}
        for title, values in parts.items()
    }


def _count_values(
    table: pd.DataFrame,
    values: pd.Series[str],
    classes: Sequence[str] | None,
    named: Sequence[str],
) -> list[dict[str, Any]]:
    sizes = values.value_counts()
    order = sorted(sizes.index, key=lambda value: (-sizes[value], value))
    kept = order if len(order) <= _MOST_VALUES else order[: _MOST_VALUES - 1]
    rest = f"{len(order) - len(kept):,} more values"
    shown = values.where(values.isin(kept), rest)
    of_class = None if classes is None else pd.Series(list(classes), index=table.index)
    return [
        {
            "value": value,
            "images": int(here.sum()),
            "persons": int(table["split_group"][here].nunique()),
            "share": float(here.mean()),
            "of_classes": [int((here & (of_class == name)).sum()) for name in named],
        }
        for value in [*kept, *([rest] if len(kept) < len(order) else [])]
        for here in [shown == value]
    ]


def find_concerns(
    table: pd.DataFrame, groups: Sequence[Group], counts: Mapping[str, Any], outliers: int
) -> list[Concern]:
    """List what a person should know before the pictures, serious things first.

    Parameters
    ----------
    table : DataFrame
        The images that are looked at.
    groups : sequence of Group
        Of this table.
    counts : mapping
        As the set's manifest has them.
    outliers : int
        How many images are far from their group.
    """
    found = [
        *_doubt_images(table),
        *_doubt_windows(table),
        *_doubt_units(groups),
        *_doubt_counts(counts, outliers),
    ]
    return sorted(found, key=lambda concern: not concern.serious)


def _doubt_images(table: pd.DataFrame) -> Iterator[Concern]:
    burned = table["BurnedInAnnotation"]
    # Constant images are told of above; that they are alike tells nothing.
    twice = int((table["source_sha256"].duplicated(keep=False) & ~table["constant"]).sum())
    lossy = int(table["lossy"].sum())
    found = (
        (True, int(table["split_group"].isna().sum()), "have no person: none can be trained on"),
        (True, int(table["constant"].sum()), "are constant: every pixel has the same value"),
        (
            True,
            int((burned == "YES").sum()),
            "say that text is burned in. It may name somebody, and it may tell the class; they "
            "are not shown",
        ),
        (False, int(burned.isna().sum()), "leave open whether text is burned in: look for it"),
        (False, twice, "have the pixels of another one"),
        (False, lossy % len(table), "lost something in compression, and the others did not"),
        (
            False,
            int((table["polarity"] == "turned").sum()),
            "came with low values bright, and were turned: here high values are bright in all",
        ),
    )
    for serious, number, words in found:
        if number:
            yield Concern(serious, f"{_count(number, len(table))} {words}.")


def _count(number: int, images: int) -> str:
    return f"All {images:,} images" if number == images else f"{number:,} of {images:,} images"


def _doubt_windows(table: pd.DataFrame) -> Iterator[Concern]:
    endless = table["full_low"].isna() | table["full_high"].isna()
    bare = table["WindowCenter"].isna() & ~table["array"].str.endswith("x3")
    hidden = bare & (endless | (table["BitsStored"].fillna(8) > 8))
    if hidden.any():
        number = _count(int(hidden.sum()), len(table))
        yield Concern(
            False,
            f"{number} are grey, of more than 8 bits, and have no window in their header: with "
            "the window 'header' a trainer sees their full range, in which they may be nearly "
            "black. Here they are stretched for the eye.",
        )
    if (bare & endless).any():
        number = _count(int((bare & endless).sum()), len(table))
        yield Concern(
            True,
            f"{number} are in floating point and have neither window nor fixed range: training "
            "needs a window in their units.",
        )


def _doubt_units(groups: Sequence[Group]) -> Iterator[Concern]:
    units: dict[str, set[str]] = {}
    for group in groups:
        if not group.colour:
            units.setdefault(tell(group.modality), set()).add(tell(group.units))
    for modality, several in units.items():
        if len(several) > 1:
            yield Concern(
                False,
                f"Grey images of modality {modality} have values in different units: "
                f"{', '.join(sorted(several))}.",
            )


def _doubt_counts(counts: Mapping[str, Any], outliers: int) -> Iterator[Concern]:
    refused = sum(counts.get("refused", {}).values())
    if refused:
        yield Concern(False, f"{refused:,} frames were refused when the set was made; see below.")
    if outliers:
        verb = "image is" if outliers == 1 else "images are"
        yield Concern(False, f"{outliers:,} {verb} far from the others of their group; see below.")


def spell_value(value: float) -> str:
    """Return a real-world value for a person: four digits, or the whole number."""
    if not np.isfinite(value):
        return "–"
    whole = abs(value) < 1e7 and (abs(value) >= 1000 or value == round(value))
    return (f"{value:,.0f}" if whole else f"{value:.4g}").replace("-", "−")
