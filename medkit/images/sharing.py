"""Pictures that several persons share, and who may therefore never be separated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from medkit.catalog.identity import unite

# A picture of more persons than this is a phantom, a logo or a form, and makes nobody the same.
MOST_PERSONS = 3


@dataclass(frozen=True)
class Sharing:
    """Who shares pixels with whom.

    Attributes
    ----------
    split_group : list of str or None
        For each image, the smallest key among the persons who are joined with its own.
    listed : list of dict
        Pictures that several persons have and that join nobody: ``source_sha256``, ``images``,
        ``persons`` (how many) and ``reason`` (``"constant"`` or ``"many-persons"``).
    """

    split_group: list[str | None]
    listed: list[dict[str, Any]]


def find_sharing(table: pd.DataFrame) -> Sharing:
    """Join persons who have equal source pixels.

    Parameters
    ----------
    table : DataFrame
        The columns ``image``, ``person``, ``source_sha256`` and ``constant`` of a set's table.
    """
    known = table.dropna(subset="person")
    known = known[known.duplicated("source_sha256", keep=False)]  # few, of many
    persons_of = known.groupby("source_sha256")["person"].nunique()
    shared = known[known["source_sha256"].isin(persons_of.index[persons_of > 1])]
    joined, listed = [], []
    for digest, group in shared.groupby("source_sha256", sort=True):
        persons = sorted(set(group["person"]))
        constant = bool(group["constant"].any())
        if not constant and len(persons) <= MOST_PERSONS:
            joined.append(tuple((person,) for person in persons))
            continue
        listed.append(
            {
                "source_sha256": digest,
                "images": group["image"].tolist(),
                "persons": len(persons),
                "reason": "constant" if constant else "many-persons",
            }
        )
    smallest = {person: low for (person,), (low,) in unite(joined).items()}
    groups = [None if pd.isna(one) else smallest.get(one, one) for one in table["person"]]
    return Sharing(groups, listed)
