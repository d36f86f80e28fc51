"""From files to series, volumes, studies and persons: the tables that follow from what was read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa

from medkit.catalog.duplicates import mark_duplicates
from medkit.catalog.identity import resolve_persons
from medkit.catalog.store import to_frame, to_table
from medkit.catalog.volumes import find_volumes

DUPLICATE_CODE = "duplicate-uid"  # in the table ``problems``


@dataclass(frozen=True)
class Grouped:
    """The tables of a catalog, but for ``labels``.

    Attributes
    ----------
    tables : dict of str to pyarrow.Table
        By name.
    context : DataFrame
        ``instances`` with root, path, archive, kind, vanished and ``counts`` (whether it is an
        image that is there, and no alias) beside.
    warnings : list of str
        What the user should know of persons.
    """

    tables: dict[str, pa.Table]
    context: pd.DataFrame
    warnings: list[str]


def add_context(tables: Mapping[str, pa.Table]) -> pd.DataFrame:
    """Return the table ``instances`` with what the table ``files`` says beside.

    The columns ``root``, ``path``, ``kind`` and ``vanished`` are those of ``files``; ``archive``
    is the path of a member's archive; ``counts`` says whether it is an image that is there.
    """
    files = to_frame(
        tables["files"].select(["file", "root", "path", "container", "kind", "vanished"])
    )
    paths = files.set_index("file")["path"]
    files["archive"] = files["container"].map(paths)
    instances = to_frame(tables["instances"]).merge(
        files.drop(columns="container"), on="file", validate="one_to_one"
    )
    shown = set(tables["frames"]["file"].to_pylist())
    instances["counts"] = instances["file"].isin(shown) & ~instances["vanished"]
    return instances


def group(
    tables: Mapping[str, pa.Table],
    context: pd.DataFrame,
    *,
    person_rules: Mapping[str, str],
    csv_patients: Mapping[str, str],
    engine: str = "local",
    workers: int | None = None,
) -> Grouped:
    """Derive all tables from those that were read.

    Parameters
    ----------
    tables : mapping of str to pyarrow.Table
        Those of `schema.READ_TABLES`; what an earlier grouping wrote into them is replaced.
    context : DataFrame
        What `add_context` returned.
    person_rules : mapping of str to str
        From root to regular expression.
    csv_patients : mapping of str to str
        From the file key of a picture to its PatientID.
    engine, workers
        For hashing pixels where SOPInstanceUIDs collide.
    """
    context = context.assign(**mark_duplicates(context, engine=engine, workers=workers))
    context["counts"] &= context["duplicate"].ne("alias").fillna(True)
    context["csv_patient"] = context["file"].map(csv_patients)
    persons = resolve_persons(context, person_rules)
    context["person"] = persons.person
    context["PatientID"] = persons.patient
    frames = to_frame(tables["frames"])
    places, volumes = find_volumes(_join_frames(frames, context))
    frames = frames.drop(columns=["volume", "slice"]).join(places)
    made = {
        "instances": context,
        "frames": frames,
        "volumes": volumes,
        "series": _tabulate_series(context, volumes),
        "studies": _tabulate_studies(context),
        "persons": persons.table,
        "problems": _add_conflicts(to_frame(tables["problems"]), context),
    }
    arrow = {name: to_table(frame, name) for name, frame in made.items()}
    warnings = [*persons.warnings, *_warn_of_conflicts(context)]
    return Grouped({"files": tables["files"], **arrow}, context, warnings)


def _join_frames(frames: pd.DataFrame, context: pd.DataFrame) -> pd.DataFrame:
    """Return the frames that count, with their instances' columns, keeping their index."""
    own = context[context["counts"]].drop(columns=["counts"])
    own = own.drop(columns=[name for name in own if name in frames and name != "file"])
    return frames.join(own.set_index("file"), on="file", how="inner")


def _present_dicom(context: pd.DataFrame) -> pd.DataFrame:
    return context[(context["format"] == "dicom") & ~context["vanished"]]


def _tabulate_series(context: pd.DataFrame, volumes: pd.DataFrame) -> pd.DataFrame:
    keys = ["source", "StudyInstanceUID", "SeriesInstanceUID"]
    groups = _present_dicom(context).sort_values(["path", "file"]).groupby(keys, sort=True)
    first = ["Modality", "SeriesNumber", "SeriesDescription", "BodyPartExamined", "person"]
    series = groups[first].first()
    series["instances"] = groups.size()
    series["images"] = groups["counts"].sum()
    series["volumes"] = volumes.groupby(keys).size() if len(volumes) else 0
    return series.fillna({"volumes": 0}).reset_index()


def _tabulate_studies(context: pd.DataFrame) -> pd.DataFrame:
    keys = ["source", "StudyInstanceUID"]
    groups = _present_dicom(context).sort_values(["path", "file"]).groupby(keys, sort=True)
    studies = groups[["StudyDate", "StudyDescription", "person"]].first()
    studies["modalities"] = groups["Modality"].agg(lambda column: sorted({*column} - {pd.NA}))
    studies["series"] = groups["SeriesInstanceUID"].nunique()
    studies["instances"] = groups.size()
    studies["images"] = groups["counts"].sum()
    return studies.reset_index()


def _find_conflicts(context: pd.DataFrame) -> pd.Series[str]:
    return context.loc[context["duplicate"].eq("conflict").fillna(False), "file"]


def _warn_of_conflicts(context: pd.DataFrame) -> list[str]:
    count = len(_find_conflicts(context))
    if not count:
        return []
    return [
        f"{count} images share a SOPInstanceUID with another one, and not its pixel data; all are "
        f"kept: see the problems of code {DUPLICATE_CODE!r}"
    ]


def _add_conflicts(problems: pd.DataFrame, context: pd.DataFrame) -> pd.DataFrame:
    conflicts = _find_conflicts(context)
    rows = pd.DataFrame(
        {
            "file": conflicts,
            "code": DUPLICATE_CODE,
            "detail": "another image has its SOPInstanceUID, and other pixels",
        }
    )
    return pd.concat([problems[problems["code"] != DUPLICATE_CODE], rows], ignore_index=True)
