"""Predictions as a file for somebody: CSV, JSON or Parquet, as its suffix says."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa

from medkit.catalog.exports import export
from medkit.errors import UsageError
from medkit.training.application import Applied
from medkit.workspace import write_beside

_FORMS = ("csv", "json", "parquet")
# What a spreadsheet may take for the beginning of a formula (OWASP, "CSV injection"), and the
# wide forms of them.
_FORMULA = r"^([=+\-@\t\r＝＋－＠])"


def choose_form(path: Path) -> str:
    """Return the form that a file's suffix asks for.

    Raises
    ------
    UsageError
        If it is none.
    """
    form = path.suffix.lower().removeprefix(".")
    if form not in _FORMS:
        raise UsageError(
            f"{path.name!r} does not say what it is to be; use a name that ends in "
            f"{', '.join(f'.{one}' for one in _FORMS)}"
        )
    return form


def write_predictions(applied: Applied, path: Path) -> None:
    """Write the predictions to a file, which appears when it is whole.

    Columns are path, frame, tile where there are such, SOPInstanceUID, predicted, ``p:CLASS``
    (calibrated), ``raw:CLASS`` and warnings. In CSV a text that a spreadsheet would take for a
    formula, such as a class named ``=1+1``, has an apostrophe before it; JSON and Parquet have it
    as it is.

    Raises
    ------
    UsageError
        If the suffix is none of ``.csv``, ``.json`` and ``.parquet``.
    """
    form, table = choose_form(path), applied.predictions
    tile = ["tile"] if table["tile"].notna().any() else []
    classes = applied.record["classes"]
    shown = table[
        [
            *("path", "frame", *tile, "SOPInstanceUID", "predicted"),
            *(f"{kind}:{name}" for kind in ("p", "raw") for name in classes),
            "warnings",
        ]
    ]
    if form == "csv":
        shown = _defuse(shown)
    content = pa.Table.from_pandas(shown, preserve_index=False).replace_schema_metadata()
    with write_beside(path.resolve()) as beside, beside.open("wb") as sink:
        export(content.to_reader(), form, sink)


def _defuse(table: pd.DataFrame) -> pd.DataFrame:
    texts = ["path", "SOPInstanceUID", "predicted", "warnings"]
    defused = {
        name: table[name].astype("string").str.replace(_FORMULA, r"'\1", regex=True)
        for name in texts
    }
    return table.assign(**defused)
