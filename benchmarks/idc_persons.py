"""Promise: of the million series of the Imaging Data Commons, no person is in two folds.

Runs the catalog's own person resolver on the index that the package idc-index-data ships, the rule
of the source for CBIS-DDSM included, and makes folds by these persons. Beside them: folds made by
PatientID as it stands, and by image.

    python benchmarks/idc_persons.py
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from medkit.catalog.database import Database
from medkit.catalog.persons import Persons, resolve_persons
from medkit.cohort.division import make_folds

# Here a PatientID is an image: 'Mass-Training_P_00001_LEFT_CC'.
RULES = {"cbis_ddsm": r"P_\d{5}"}
FOLDS = 5
# What a series is, as a scan finds it; here a collection is a source and a root of its own.
_PROFILES = """
CREATE TEMP TABLE profiles AS
SELECT row_number() OVER () - 1 AS profile, collection_id AS root, collection_id AS source,
    true AS dicom, PatientID::VARCHAR AS PatientID, NULL::VARCHAR AS IssuerOfPatientID,
    StudyInstanceUID::VARCHAR AS StudyInstanceUID, NULL::VARCHAR AS told_basis,
    NULL::VARCHAR AS told_patient, Modality
FROM idc_index
"""


def find_index() -> Path:
    """Return where idc-index-data keeps the index of all series.

    Raises
    ------
    ImportError
        If it is not installed.
    """
    import idc_index_data

    return Path(idc_index_data.IDC_INDEX_PARQUET_FILEPATH)


@contextmanager
def open_index() -> Iterator[Database]:
    """Yield a database with a row of ``profiles`` for each series."""
    with tempfile.TemporaryDirectory() as spill:
        tables = {"idc_index": [find_index()]}
        with Database.open(tables, spill=Path(spill)) as database:
            database.execute(_PROFILES)
            yield database


def resolve(database: Database) -> Persons:
    """Return the persons of all series."""
    total = database.arrow("SELECT count(*) FROM profiles").column(0)[0].as_py()
    nobody = np.empty(0, np.int64)
    return resolve_persons(database, RULES, np.ones(total, np.int64), (nobody, nobody))


def read_series(database: Database, persons: Persons) -> pd.DataFrame:
    """Return collection, PatientID, study, modality and person of each series."""
    columns = "root AS collection, PatientID, StudyInstanceUID, Modality"
    series = database.arrow(f"SELECT {columns} FROM profiles ORDER BY profile").to_pandas()
    return series.assign(person=persons.owner)


def count_split(persons: pd.Series[int], folds: npt.NDArray[np.int64]) -> int:
    """Return how many persons are in more than one fold."""
    return int((pd.Series(folds).groupby(persons.to_numpy()).nunique() > 1).sum())


def deal(groups: npt.ArrayLike, seed: int = 0) -> npt.NDArray[np.int64]:
    """Return a fold for each image, so that those of a group are in one; at random."""
    codes, _ = pd.factorize(np.asarray(groups))
    return np.random.default_rng(seed).permutation(codes.max() + 1)[codes] % FOLDS


def compare_splits(series: pd.DataFrame, label: pd.Series[str]) -> pd.DataFrame:
    """Return, for each way to make folds, how many persons are on both sides."""
    series, label = (table.reset_index(drop=True) for table in (series, label))
    group = series["person"].astype(str)
    table = pd.DataFrame({"image": series.index, "split_group": group, "label": label})
    ways = {
        "person (medkit)": make_folds(table, FOLDS, 0),
        "PatientID": deal(series["collection"] + "/" + series["PatientID"]),
        "study": deal(series["StudyInstanceUID"]),
        "series": deal(series.index),
    }
    split = {way: count_split(series["person"], folds) for way, folds in ways.items()}
    persons = series["person"].nunique()
    rows = [(way, count, f"{count / persons:.1%}") for way, count in split.items()]
    return pd.DataFrame(rows, columns=["folds by", "persons on both sides", "share"])


def take_common(series: pd.DataFrame) -> pd.DataFrame:
    """Return the series of modalities that enough persons have for folds."""
    persons = series.groupby("Modality")["person"].nunique()
    return series[series["Modality"].isin(persons.index[persons >= 10 * FOLDS])]


def print_splits(title: str, series: pd.DataFrame, label: pd.Series[str]) -> None:
    """Print what `compare_splits` finds."""
    start = time.perf_counter()
    table = compare_splits(series, label)
    seconds = time.perf_counter() - start
    print(f"\n{title}: {len(series):,} series in {FOLDS} folds, {seconds:.1f} s")
    print(table.to_string(index=False))


def main() -> None:
    start = time.perf_counter()
    with open_index() as database:
        loaded = time.perf_counter()
        persons = resolve(database)
        resolved = time.perf_counter()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        series = read_series(database, persons)
    print(
        f"{len(series):,} series, {series['PatientID'].nunique():,} PatientIDs, "
        f"{len(persons.keys):,} persons; read in {loaded - start:.1f} s, resolved in "
        f"{resolved - loaded:.1f} s, {peak:.0f} MB at most"
    )
    by_collection = series.groupby("collection")
    for name in ("cbis_ddsm", "nlst"):
        own = by_collection.get_group(name)
        ids, count = own["PatientID"].nunique(), own["person"].nunique()
        print(f"{name}: {ids:,} PatientIDs, {count:,} persons")
    nlst = by_collection.get_group("nlst")
    pair = nlst[nlst["PatientID"].isin(["108001", "123342"])]
    print(f"nlst 108001 and 123342 share a study: {pair['person'].nunique()} person")
    common = take_common(series)
    print_splits("all collections by modality", common, common["Modality"])
    ddsm = by_collection.get_group("cbis_ddsm")
    print_splits("cbis_ddsm, masses and calcifications", ddsm, ddsm["PatientID"].str[:4])


if __name__ == "__main__":
    sys.exit(main())
