"""Answers as CSV, JSON and Parquet, written batch by batch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from medkit.errors import UsageError

_JSON_ROWS = 1024  # that stand in memory as Python objects


def choose_form(form: str | None, output: Path | None, as_json: bool) -> str:
    """Return the form that options ask for; by default what a file's suffix says, or a table.

    Raises
    ------
    UsageError
        If they ask for two, or for a table in a file.
    """
    if as_json and form not in (None, "json"):
        raise UsageError(f"--json and --format {form} ask for two forms")
    suffix = output.suffix.lower().removeprefix(".") if output else ""
    chosen = "json" if as_json else form or (suffix if suffix in _WRITERS else "table")
    if output and chosen == "table":
        raise UsageError(
            f"a table is for a terminal; give {str(output)!r} a --format: {', '.join(_WRITERS)}"
        )
    return chosen


def export(batches: pa.RecordBatchReader, form: str, sink: IO[bytes]) -> None:
    """Write rows as one of the forms.

    Parameters
    ----------
    batches : pyarrow.RecordBatchReader
        The rows.
    form : str
        ``"csv"``: UTF-8, quoted as RFC 4180 says, lines end in ``\\n``; every text stands in
        quotes, so that an empty one (``""``) is not a missing one (nothing); lists are JSON,
        and bytes hexadecimal digits.
        Values are the data's own, as pandas, DuckDB and psql write them: a text that a
        spreadsheet would take for a formula is not changed. ``"json"``: one array, an object a
        row, ASCII; what is no number in JSON is null. ``"parquet"``: zstd.
    sink : binary file
        Where to; it need not be seekable.

    Raises
    ------
    UsageError
        If the form has no such type.
    """
    try:
        _WRITERS[form](batches, sink)
    except pa.ArrowNotImplementedError as error:
        raise UsageError(f"{form} cannot hold this: {error}; cast it to VARCHAR") from None


def _write_csv(batches: pa.RecordBatchReader, sink: IO[bytes]) -> None:
    schema = pa.schema(
        [
            field if _fits_csv(field.type) else pa.field(field.name, pa.string())
            for field in batches.schema
        ]
    )
    with pc.CSVWriter(sink, schema) as writer:
        for batch in batches:
            columns = [
                column if _fits_csv(column.type) else _spell(column) for column in batch.columns
            ]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))


def _fits_csv(kind: pa.DataType) -> bool:
    return not (pa.types.is_nested(kind) or pa.types.is_interval(kind) or pa.types.is_binary(kind))


def _spell(column: pa.Array) -> pa.Array:
    """Return bytes as hexadecimal digits, other values as JSON, nulls as nulls."""
    values = map(_plain, column.to_pylist())
    return pa.array(
        [value if value is None or isinstance(value, str) else _dump(value) for value in values],
        pa.string(),
    )


def _write_json(batches: pa.RecordBatchReader, sink: IO[bytes]) -> None:
    before = b"[\n"
    for batch in batches:
        for start in range(0, batch.num_rows, _JSON_ROWS):
            rows = batch.slice(start, _JSON_ROWS).to_pylist()
            sink.write(before + b",\n".join(_dump(row).encode() for row in rows))
            before = b",\n"
    sink.write(b"[]\n" if before == b"[\n" else b"\n]\n")


def _dump(value: Any) -> str:
    return json.dumps(_plain(value), ensure_ascii=True, allow_nan=False)


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case Decimal():  # sums of integers are wider than any integer of Arrow
            return int(value) if value == value.to_integral_value() else float(value)
        case bytes():
            return value.hex()
        case dict():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
    return str(value)


def _write_parquet(batches: pa.RecordBatchReader, sink: IO[bytes]) -> None:
    with pq.ParquetWriter(sink, batches.schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)


_WRITERS: dict[str, Callable[[pa.RecordBatchReader, IO[bytes]], None]] = {
    "csv": _write_csv,
    "json": _write_json,
    "parquet": _write_parquet,
}
