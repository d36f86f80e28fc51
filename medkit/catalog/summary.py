"""A summary of a catalog: what is in it, on one screen.

Every count adds up: kinds to the files, ``instances`` to the rows of that table, and each share to
the images, which are the rows of the view ``images``: one a frame, without aliases and what
vanished.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from medkit.catalog.pseudonyms import stream
from medkit.catalog.store import Catalog

# Syntaxes that always lose something (PS3.5 A.4, PS3.5 10): JPEG with a DCT, and video.
_LOSSY = tuple(f"1.2.840.10008.1.2.4.{end}" for end in (50, 51, *range(100, 109)))
# Syntaxes that may: without a word in the header, nobody knows.
_EITHER = tuple(f"1.2.840.10008.1.2.4.{end}" for end in (81, 91, 93, 112, 203))
_SHARES = {
    "sizes": '"Rows" || \' x \' || "Columns"',
    "transfer_syntaxes": "coalesce(TransferSyntaxUID, format)",
    "photometric_interpretations": "PhotometricInterpretation",
    "bits_stored": "CAST(BitsStored AS VARCHAR)",
    "manufacturers": "trim(Manufacturer)",
    "lossy": f"""CASE
        WHEN LossyImageCompression = '01' OR TransferSyntaxUID IN {_LOSSY} THEN 'yes'
        WHEN TransferSyntaxUID IN {_EITHER} AND LossyImageCompression IS DISTINCT FROM '00'
        THEN 'not known'
        ELSE 'no' END""",
}
# A date as the standard has it now (PS3.5 6.2), as it had it before, or the year of a pseudonym.
_DATE = "StudyDate SIMILAR TO '[12][0-9]{3}(\\.?[0-9]{2}\\.?[0-9]{2})?'"
_SEEN = ", ".join(f"{rule} AS {name}" for name, rule in _SHARES.items())
_SETS = ", ".join(f"({name})" for name in _SHARES)
_KEPT = 1000  # values of a share that are listed; the others are one row
_OF_MODALITIES = -1
# Once over all images, then many times over the groups of equal ones.
_IMAGES = f"""
WITH groups AS MATERIALIZED (
    SELECT {_SEEN}, Modality, source, StudyInstanceUID, SeriesInstanceUID, person,
        count(*) AS images, count(*) FILTER ({_DATE}) AS dated,
        min(replace(StudyDate, '.', '')) FILTER ({_DATE}) AS first,
        max(replace(StudyDate, '.', '')) FILTER ({_DATE}) AS last
    FROM images GROUP BY ALL
), shares AS (
    SELECT grouping({", ".join(_SHARES)}) AS share, coalesce({", ".join(_SHARES)}) AS value,
        sum(images) AS images, sum(dated) AS dated, min(first) AS first, max(last) AS last
    FROM groups GROUP BY GROUPING SETS ({_SETS}, ())
    QUALIFY row_number() OVER (PARTITION BY share ORDER BY sum(images) DESC, value) <= {_KEPT}
), series AS (
    SELECT Modality, sum(images) AS images, count(SeriesInstanceUID) AS series FROM (
        SELECT Modality, source, StudyInstanceUID, SeriesInstanceUID, sum(images) AS images
        FROM groups GROUP BY ALL
    ) GROUP BY Modality
), persons AS (
    SELECT Modality, count(person) AS persons FROM (SELECT DISTINCT Modality, person FROM groups)
    GROUP BY Modality
)
SELECT *, NULL AS series, NULL AS persons FROM shares
UNION ALL BY NAME
SELECT {_OF_MODALITIES} AS share, series.Modality AS value, images, series, persons
FROM series JOIN persons ON series.Modality IS NOT DISTINCT FROM persons.Modality
ORDER BY share, images DESC, value
"""
_KINDS = """
SELECT CASE WHEN vanished THEN 'vanished' ELSE kind END AS value, count(*) AS files
FROM files GROUP BY ALL ORDER BY files DESC, value
"""
_USES = """
SELECT CASE WHEN vanished THEN 'vanished' WHEN duplicate = 'alias' THEN 'alias'
        WHEN kind = 'other-dicom' THEN kind WHEN framed.file IS NULL THEN 'volume file'
        ELSE 'image' END AS value, count(*) AS instances
FROM instances JOIN files USING (file)
LEFT JOIN (SELECT DISTINCT file FROM frames) AS framed USING (file)
GROUP BY ALL ORDER BY instances DESC, value
"""
_PROBLEMS = """
SELECT code AS value, count(*) AS rows, count(DISTINCT file) AS files
FROM problems GROUP BY ALL ORDER BY rows DESC, value
"""
_LABELS = """
SELECT name AS value, count(*) AS files, count(DISTINCT value) AS classes
FROM labels GROUP BY ALL ORDER BY value
"""
_TOTALS = """
SELECT (SELECT count(*) FROM persons) AS persons, (SELECT count(*) FROM studies) AS studies,
    (SELECT count(*) FROM series) AS series, count(*) AS volumes,
    count(*) FILTER (regularly_spaced_3d_volume) AS regular
FROM volumes
"""
_SHOWN = 4  # values of a share that a person sees

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Summary:
    """What is in a catalog.

    Attributes
    ----------
    snapshot : str
        Of which state.
    kinds : list of dict
        ``value``, ``files``: of each kind, and those that vanished.
    instances : list of dict
        ``value``, ``instances``: those that are images, and why others are not.
    images, persons, studies, series, volumes, regular : int
        How many; ``regular`` volumes are regularly spaced.
    modalities : list of dict
        ``value``, ``images``, ``series``, ``persons``; a person may have several.
    shares : dict of str to list of dict
        ``value``, ``images`` for ``sizes`` (rows x columns), ``transfer_syntaxes`` (by name),
        ``photometric_interpretations``, ``bits_stored``, ``manufacturers`` and ``lossy`` (yes, no,
        not known), the most frequent first. A value that is not there is None.
    first_date, last_date : str or None
        Of the studies' dates, as DICOM writes them.
    undated : int
        Images without a date.
    problems : list of dict
        ``value`` (the code), ``rows``, ``files``.
    labels : list of dict
        ``value`` (the name), ``files``, ``classes``.
    """

    snapshot: str
    kinds: Rows
    instances: Rows
    images: int
    persons: int
    studies: int
    series: int
    volumes: int
    regular: int
    modalities: Rows
    shares: dict[str, Rows]
    first_date: str | None
    last_date: str | None
    undated: int
    problems: Rows
    labels: Rows

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON has it."""
        return asdict(self)


def summarise(catalog: Catalog, *, anonymised: bool = False) -> Summary:
    """Return what is in a catalog, by a few questions that DuckDB answers in bounded memory.

    Parameters
    ----------
    anonymised : bool
        Years instead of dates; the rest names nobody.
    """

    def ask(sql: str) -> Rows:
        rows: Rows = stream(catalog, sql, anonymised).read_all().to_pylist()
        return rows

    found = [_count(row) for row in ask(_IMAGES)]
    whole = next(row for row in found if row["share"] == _mask())
    return Summary(
        snapshot=catalog.snapshot,
        kinds=ask(_KINDS),
        instances=ask(_USES),
        images=whole["images"],
        **ask(_TOTALS)[0],
        modalities=[
            {name: row[name] for name in ("value", "images", "series", "persons")}
            for row in found
            if row["share"] == _OF_MODALITIES
        ],
        shares={name: _share(found, name, whole["images"]) for name in _SHARES},
        first_date=whole["first"],
        last_date=whole["last"],
        undated=whole["images"] - whole["dated"],
        problems=ask(_PROBLEMS),
        labels=ask(_LABELS),
    )


def describe(summary: Summary) -> dict[str, str]:
    """Return a summary in words, a line for each thing, for a terminal."""
    images = {name: _word(rows, "images") for name, rows in summary.shares.items()}
    return {
        "files": _word(summary.kinds, "files"),
        "instances": _word(summary.instances, "instances"),
        "images": f"{summary.images:,}",
        "persons": f"{summary.persons:,} in {summary.studies:,} studies, {summary.series:,} series",
        "volumes": f"{summary.volumes:,}, {summary.regular:,} regularly spaced",
        "rows x columns": images["sizes"],
        "transfer syntaxes": images["transfer_syntaxes"],
        "photometric": images["photometric_interpretations"],
        "bits stored": images["bits_stored"],
        "lossy": images["lossy"],
        "manufacturers": images["manufacturers"],
        "study dates": _word_dates(summary),
        "problems": _word(summary.problems, "rows"),
        "labels": _word(summary.labels, "files"),
    }


def _mask(name: str | None = None) -> int:
    """Return what GROUPING says of the set of one share, or of all images."""
    bits = ["0" if share == name else "1" for share in _SHARES]
    return int("".join(bits), 2)


def _count(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row whose sums are integers, and zero where there was nothing to add."""
    sums = {name: int(row[name] or 0) for name in ("images", "dated") if name in row}
    return row | sums


def _share(found: Rows, name: str, images: int) -> Rows:
    rows = [
        {"value": row["value"], "images": row["images"]}
        for row in found
        if row["share"] == _mask(name)
    ]
    if name == "transfer_syntaxes":
        rows = [row | {"value": _name_syntax(row["value"])} for row in rows]
    others = images - sum(row["images"] for row in rows)
    return [*rows, {"value": "(others)", "images": others}] if others else rows


def _name_syntax(value: str) -> str:
    from pydicom.uid import UID

    return UID(value).name if value[:1].isdigit() else value


def _word(rows: Rows, counted: str) -> str:
    """Return the first values and their counts, and what the others sum to."""
    words = [f"{tell(row['value'])} ({row[counted]:,})" for row in rows[:_SHOWN]]
    rest = rows[_SHOWN:]
    if rest:
        words.append(f"{len(rest):,} more ({sum(row[counted] for row in rest):,})")
    return "; ".join(words) or "none"


def tell(value: str | None) -> str:
    """Return a value for a person, and words where there is none."""
    return "not given" if value is None or value == "" else value


def _word_dates(summary: Summary) -> str:
    ends = dict.fromkeys(filter(None, (summary.first_date, summary.last_date)))
    words = [" to ".join(map(_word_date, ends))] if ends else []
    if summary.undated:
        words.append(f"not given ({summary.undated:,})")
    return "; ".join(words) or "none"


def _word_date(date: str) -> str:
    return "-".join(filter(None, (date[:4], date[4:6], date[6:])))
