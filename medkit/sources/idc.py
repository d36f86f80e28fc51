"""The Imaging Data Commons: series chosen in its index, offline, and listed in its open buckets.

The index comes in the package ``idc-index-data``: a row a series, with licence, DOI, transfer
syntax, number of instances and bytes. A series is a folder of a bucket, an object an instance.
The index holds no hashes; the ETags of the listing are what objects are compared with.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode
from xml.etree import ElementTree

from medkit.errors import SourceError, UsageError
from medkit.sources.descriptor import Descriptor
from medkit.sources.endpoints import Endpoint, find_endpoint
from medkit.sources.plans import Item, Plan, Preflight

if TYPE_CHECKING:
    import duckdb

    from medkit.sources.https import Client

# A copy of the buckets, such as https://storage.googleapis.com, or a proxy of one's own.
ENDPOINT = "MEDKIT_IDC_ENDPOINT"
_GOOGLE = "https://storage.googleapis.com"
_GOOGLE_BUCKETS = {"idc-open-data-two": "idc-open-idc1", "idc-open-data-cr": "idc-open-cr"}
_AT_ONCE = 16  # listings under way
_KEY = re.compile(r"[0-9a-f-]{36}/[A-Za-z0-9_-][A-Za-z0-9._-]*\.dcm")
# Transfer syntaxes that may lose something (PS3.6, table A-1); 4.91 is JPEG 2000 of either kind.
_LOSSY = r"1\.2\.840\.10008\.1\.2\.4\.(50|51|53|55|81|91|93|10\d|112|203)\b"
_SERIES = "series_aws_url, instanceCount"
_ORDER = "PatientID, StudyInstanceUID, SeriesInstanceUID"


@dataclass(frozen=True)
class Chosen:
    """Some series of the index, and what they come to.

    Attributes
    ----------
    relation : str
        In SQL: the rows of the index that are theirs.
    parameters : sequence
        Of its question marks.
    series, files, size : int
        Numbers of series and instances, and bytes.
    licences : dict of str to int
        Series by licence.
    citations : tuple of str
        A sentence, or a DOI, for each of the papers and deposits it is from.
    lossy : int
        Series of which some instance is in a transfer syntax that may lose something.
    modalities : tuple of str
        Values of Modality (0008,0060).
    key : str
        Differs where any of the series does; IDC names each revision of a series anew.
    """

    relation: str
    parameters: Sequence[Any]
    series: int
    files: int
    size: int
    licences: dict[str, int]
    citations: tuple[str, ...]
    lossy: int
    modalities: tuple[str, ...]
    key: str


def describe(selection: str, where: str = "") -> Descriptor:
    """Return what the index says of a collection that a user named, such as ``lidc_idri``.

    Raises
    ------
    UsageError
        If the index is not installed, has no such collection, or cannot take the condition.
    """
    chosen = choose(selection, where)
    collection = _normalise(selection)
    return Descriptor(
        name=collection,
        title=_find_title(collection),
        version=f"IDC v{read_version()}",
        licence=", ".join(chosen.licences),
        citation="; ".join(chosen.citations),
        homepage=f"https://portal.imaging.datacommons.cancer.gov/explore/?collection_id={collection}",
        protocol="idc",
        modality=chosen.modalities,
        series_count=chosen.series,
        file_count=chosen.files,
        size_bytes=chosen.size,
        selection=collection,
        where=where,
    )


def plan(descriptor: Descriptor) -> Plan:
    """Plan a collection of the index, or the part of it that a condition leaves.

    Raises
    ------
    UsageError
        As `describe`.
    """
    chosen = choose(descriptor.selection, descriptor.where)
    return plan_chosen(descriptor, chosen)


def plan_chosen(descriptor: Descriptor, chosen: Chosen) -> Plan:
    """Plan what was chosen from the index."""
    endpoint = _find_endpoint()
    return Plan(
        source=descriptor,
        items=lambda: _list_items(chosen, endpoint),
        request=["idc", chosen.key],
        preflight=Preflight(
            series=chosen.series,
            files=chosen.files,
            size=chosen.size,
            licences=chosen.licences,
            citations=chosen.citations,
            lossy=chosen.lossy / chosen.series,
        ),
        hosts=endpoint.hosts,
        asked=endpoint.asked,
    )


def choose(selection: str, where: str = "") -> Chosen:
    """Return what a collection, or all of IDC for ``*``, comes to under a condition.

    Parameters
    ----------
    selection : str
        A collection, as IDC or as TCIA spells it.
    where : str
        A condition in SQL over the columns of the index, such as ``Modality = 'CT'``.

    Raises
    ------
    UsageError
        If there is no such collection, nothing is left of it, or the condition is no SQL.
    """
    collection = _normalise(selection)
    parameters = [] if selection == "*" else [collection]
    within = "FROM idc WHERE collection_id = ?" if parameters else "FROM idc"
    # Nested, so that no bracket of the condition reaches out of the collection; the line ends
    # keep a comment in it from swallowing what follows.
    chosen = _sum_up(f"(FROM ({within}) WHERE (\n{where or 'true'}\n))", parameters, where)
    if chosen.series:
        return chosen
    if selection == "*" or has_collection(selection):
        raise UsageError(f"no series of {selection} is left by --where {where!r}")
    near = ", ".join(_find_near(collection)) or "see https://portal.imaging.datacommons.cancer.gov"
    raise UsageError(f"IDC v{read_version()} has no collection {selection!r}; near it: {near}")


def choose_uids(uids: Sequence[str]) -> tuple[Chosen, list[str]]:
    """Return what some SeriesInstanceUIDs come to, and those that the index does not have."""
    rows = "(FROM idc WHERE SeriesInstanceUID IN (SELECT unnest(?)))"
    chosen = _sum_up(rows, [list(uids)], "")
    sql = f"SELECT SeriesInstanceUID FROM {chosen.relation}"
    known = {uid for (uid,) in _ask(sql, chosen.parameters)}
    return chosen, [uid for uid in uids if uid not in known]


def has_collection(selection: str) -> bool:
    """Tell whether the index has a collection of that name."""
    return bool(_ask("SELECT 1 FROM idc WHERE collection_id = ? LIMIT 1", [_normalise(selection)]))


def is_installed() -> bool:
    """Tell whether the index is on this machine."""
    from importlib.util import find_spec

    return find_spec("idc_index_data") is not None


# ---- The index -----------------------------------------------------------------------------------


def _locate() -> Path:
    try:
        import idc_index_data
    except ImportError:
        raise UsageError(
            "the index of the Imaging Data Commons is not installed; install it (79 MB): "
            "pip install medkit[idc]"
        ) from None
    return Path(idc_index_data.__file__).parent


def open_index() -> duckdb.DuckDBPyConnection:
    """Return a database that sees the index and, whatever a condition asks for, nothing else."""
    import duckdb

    place = str(_locate() / "idc_index.parquet").replace("'", "''")
    index = duckdb.connect()
    index.execute(f"CREATE VIEW idc AS FROM read_parquet('{place}')")
    index.execute(f"SET allowed_paths = ['{place}']")
    index.execute("SET enable_external_access = false")
    index.execute("SET lock_configuration = true")
    return index


def _ask(sql: str, parameters: Sequence[Any]) -> list[Any]:
    with open_index() as index:
        return index.execute(sql, parameters).fetchall()


def _sum_up(relation: str, parameters: Sequence[Any], where: str) -> Chosen:
    import duckdb

    sql = f"""
        SELECT count(*), coalesce(sum(instanceCount), 0)::BIGINT,
            coalesce(sum(round(series_size_MB * 1e6)::BIGINT), 0)::BIGINT,
            count(*) FILTER (regexp_matches(TransferSyntaxUID, '{_LOSSY}')),
            coalesce(list(DISTINCT source_DOI ORDER BY source_DOI), []),
            coalesce(list(DISTINCT Modality ORDER BY Modality), []),
            coalesce(sha256(string_agg(crdc_series_uuid, ' ' ORDER BY crdc_series_uuid)), ''),
            histogram(coalesce(license_short_name, 'not stated'))
        FROM {relation}"""
    try:
        (row,) = _ask(sql, parameters)
    except duckdb.Error as error:
        columns = ", ".join(name for name, *_ in _ask("DESCRIBE idc", []))
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"--where {where!r} cannot be asked of the index: {reason}; its columns are {columns}"
        ) from None
    series, files, size, lossy, dois, modalities, key, licences = row
    often = sorted((licences or {}).items(), key=lambda item: (-item[1], item[0]))
    return Chosen(
        relation=relation,
        parameters=parameters,
        series=series,
        files=files,
        size=size,
        licences=dict(often),
        citations=_cite([doi for doi in dois if doi]),
        lossy=lossy,
        modalities=tuple(name for name in modalities if name),
        key=key,
    )


def _normalise(selection: str) -> str:
    """Return a collection's name as IDC spells it, of TCIA's ``LIDC-IDRI`` too."""
    return re.sub(r"[^a-z0-9*]+", "_", selection.lower()).strip("_")


def _read_collections(*columns: str) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    table = pq.read_table(_locate() / "collections_index.parquet", columns=list(columns))
    found: list[dict[str, Any]] = table.to_pylist()
    return found


def _find_title(collection: str) -> str:
    names = _read_collections("collection_id", "collection_name")
    known = {row["collection_id"]: row["collection_name"] for row in names}
    return f"{known.get(collection, collection)}, from the Imaging Data Commons"


def _find_near(collection: str) -> list[str]:
    from difflib import get_close_matches

    known = [row["collection_id"] for row in _read_collections("collection_id")]
    within = [name for name in known if collection and collection in name]
    return (within or get_close_matches(collection, known, cutoff=0.5))[:5]


def read_version() -> int:
    import pyarrow.parquet as pq

    versions = pq.read_table(_locate() / "version_metadata_index.parquet")["idc_version"]
    return int(max(versions.to_pylist()))


def _cite(dois: Iterable[str]) -> tuple[str, ...]:
    """Return the deposits' own citations, where the list of collections has them; else the DOI."""
    sources = chain.from_iterable(row["sources"] or () for row in _read_collections("sources"))
    known = {(source["source_doi"] or "").lower(): source["citation"] for source in sources}
    return tuple(_strip(known.get(doi.lower()) or f"https://doi.org/{doi}") for doi in dois)


def _strip(citation: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", citation)).split())


# ---- The buckets ---------------------------------------------------------------------------------


def _list_items(chosen: Chosen, endpoint: Endpoint) -> Iterator[Item]:
    """Yield the objects of all series, in one order."""
    client = endpoint.make_client(connections=_AT_ONCE)
    sql = f"SELECT {_SERIES} FROM {chosen.relation} ORDER BY {_ORDER}"
    with open_index() as index, ThreadPoolExecutor(_AT_ONCE) as pool:
        rows = index.execute(sql, chosen.parameters)
        while batch := rows.fetchmany(4 * _AT_ONCE):
            listed = pool.map(lambda row: _list_series(client, endpoint, *row), batch)
            yield from chain.from_iterable(listed)


def _list_series(client: Client, endpoint: Endpoint, url: str, count: int) -> list[Item]:
    """Return the objects of a series; as many as the index says.

    Raises
    ------
    SourceError
        If there are others.
    """
    bucket, uuid = url.removeprefix("s3://").removesuffix("/*").split("/")
    place = _locate_bucket(bucket, endpoint)
    items: list[Item] = []
    token = ""
    while True:
        page = client.read(f"{place}/?{_write_query(f'{uuid}/', token)}")
        found, token = _read_page(page, place)
        items += found
        if not token:
            break
    if len(items) != count or any(not item.path.startswith(f"{uuid}/") for item in items):
        raise SourceError(
            f"{place}/{uuid} holds {len(items)} instances, and the index says {count}; is the "
            "index old? pip install --upgrade idc-index-data"
        )
    return items


def _find_endpoint() -> Endpoint:
    return find_endpoint(ENDPOINT, "https://s3.amazonaws.com", ("*.s3.amazonaws.com",))


def _locate_bucket(bucket: str, endpoint: Endpoint) -> str:
    if endpoint.is_usual:
        return f"https://{bucket}.s3.amazonaws.com"
    if endpoint.url == _GOOGLE:
        bucket = _GOOGLE_BUCKETS.get(bucket, bucket)
    return f"{endpoint.url}/{bucket}"


def _write_query(prefix: str, token: str) -> str:
    asked = {"list-type": "2", "prefix": prefix} | ({"continuation-token": token} if token else {})
    return urlencode(asked, quote_via=quote)


def _read_page(page: bytes, place: str) -> tuple[list[Item], str]:
    """Return the objects of a page of S3's ListObjectsV2, and what asks for the next page."""
    try:
        root = ElementTree.fromstring(page)
    except ElementTree.ParseError as error:
        raise SourceError(f"{place} answers with something that is no listing: {error}") from None
    items = []
    for entry in root.iterfind("{*}Contents"):
        key, size = entry.findtext("{*}Key", ""), entry.findtext("{*}Size", "")
        if not _KEY.fullmatch(key) or not size.isdigit():
            raise SourceError(f"{place} lists {key!r}, which is no instance of a series")
        etag = entry.findtext("{*}ETag", "").strip('"')
        items.append(Item(f"{place}/{key}", key, int(size), {"s3-etag": etag} if etag else {}))
    return items, root.findtext("{*}NextContinuationToken", "")
