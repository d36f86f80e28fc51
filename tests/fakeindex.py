"""A package ``idc_index_data`` with an index of a few files, and the objects of its bucket."""

from __future__ import annotations

import importlib
import sys
import uuid
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
import pytest

_SPACE = uuid.UUID(int=7)


def write_index(site: Path, paths: Iterable[Path], collection: str = "toy") -> dict[str, bytes]:
    """Write the package below a folder; return the objects that its index speaks of, by key."""
    series: dict[str, list[tuple[str, Path]]] = defaultdict(list)
    heads: dict[str, Any] = {}
    for path in sorted(paths):
        head = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        of = str(uuid.uuid5(_SPACE, str(head.get("SeriesInstanceUID", path))))
        series[of].append((f"{of}/{uuid.uuid5(_SPACE, str(path))}.dcm", path))
        heads[of] = head
    rows = [
        describe(of, heads[of], [path for _, path in held], collection)
        for of, held in series.items()
    ]
    package = site / "idc_index_data"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    pq.write_table(pa.Table.from_pylist(rows), package / "idc_index.parquet")
    sources = [{"source_doi": "10.1/TOY", "citation": "Toy (2026). <i>A &amp; B</i>"}]
    known = [{"collection_id": collection, "collection_name": "Toy", "sources": sources}]
    pq.write_table(pa.Table.from_pylist(known), package / "collections_index.parquet")
    versions = pa.Table.from_pylist([{"idc_version": 24}, {"idc_version": 25}])
    pq.write_table(versions, package / "version_metadata_index.parquet")
    return {key: path.read_bytes() for held in series.values() for key, path in held}


def install_index(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it be found before the real one."""
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(sys.modules, "idc_index_data", raising=False)
    # What is imported meanwhile is gone afterwards.
    monkeypatch.setitem(sys.modules, "idc_index_data", importlib.import_module("idc_index_data"))


def describe(of: str, head: Any, paths: list[Path], collection: str) -> dict[str, Any]:
    return {
        "collection_id": collection,
        "PatientID": str(head.get("PatientID", "")),
        "StudyInstanceUID": str(head.get("StudyInstanceUID", "")),
        "SeriesInstanceUID": str(head.get("SeriesInstanceUID", "")),
        "Modality": str(head.get("Modality", "")),
        "TransferSyntaxUID": str(head.file_meta.get("TransferSyntaxUID", "")),
        "source_DOI": "10.1/toy",
        "license_short_name": "CC BY-NC 4.0" if head.get("Modality") == "CT" else "CC BY 4.0",
        "instanceCount": len(paths),
        "series_size_MB": sum(path.stat().st_size for path in paths) / 1e6,
        "aws_bucket": "idc-open-data",
        "crdc_series_uuid": of,
        "series_aws_url": f"s3://idc-open-data/{of}/*",
    }
