"""What a public source publishes: one TOML file a source, data only.

Descriptors lie in the ``catalogs`` folder that comes with medkit, and in a folder of the user's
own that the environment variable ``MEDKIT_CATALOGS`` names; of two with one name, the user's is
taken.
"""

from __future__ import annotations

import json
import math
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import urlsplit

from medkit.errors import SourceError, UsageError
from medkit.sources.addresses import is_safe, name_of_url, stem_of
from medkit.workspace import check_name

USER_FOLDER = "MEDKIT_CATALOGS"


@dataclass(frozen=True)
class SourceFile:
    """A file that a source publishes.

    Attributes
    ----------
    url : str
        Where it is.
    sha256 : str
        What its bytes must hash to, 64 hexadecimal digits. Empty only where a user asked for a
        download without a reference.
    size : int or None
        Bytes.
    unpack : bool
        Whether it is unpacked if it is an archive.
    """

    url: str
    sha256: str = ""
    size: int | None = None
    unpack: bool = True


@dataclass(frozen=True)
class RawRule:
    """How to read files of voxels that have no header: nothing in them tells what they are.

    Attributes
    ----------
    files : str
        A pattern such as ``"*.dat"``, of the path within the source, as of a shell; ``*`` takes
        ``/`` too.
    dtype : str
        Of a voxel: ``uint8`` to ``uint32``, ``int8`` to ``int32``, ``float32`` or ``float64``.
    shapes : tuple of tuple of int
        Columns, rows and slices that a file may have; its size decides which, so that no two may
        have the same number of voxels. Columns run fastest, slices slowest.
    spacing : tuple of float
        From a voxel to the next along a row, from row to row, and from slice to slice, mm.
    byte_order : str
        ``"little"`` or ``"big"``; needed where a voxel has more than one byte.
    offset : int or None
        Bytes before the voxels.
    orientation : tuple of float
        ImageOrientationPatient: how rows and columns lie in the patient; none where nobody knows,
        and then the slices make no volume.
    """

    files: str
    dtype: str
    shapes: tuple[tuple[int, ...], ...]
    spacing: tuple[float, ...]
    byte_order: str = ""
    offset: int | None = None
    orientation: tuple[float, ...] = ()


@dataclass(frozen=True)
class Descriptor:
    """What is known of a source before a byte of it is moved.

    Attributes
    ----------
    name, title, version, licence, citation, homepage, notes : str
        ``licence`` is the holder's own words or an SPDX name; ``notes`` is what a user must know.
    protocol : str
        ``"local"``: images that are on this machine already. ``"https"``: files to download.
    modality : tuple of str
        Values of Modality (0008,0060) that its images have.
    size_bytes : int or None
        Of all that is fetched.
    path : str
        Local: the folder, absolute, or relative to the package.
    package, distribution : str
        Local: the installed Python package that holds the folder, and what to install it by.
    files : tuple of SourceFile
        What is brought; none where the images are read in place.
    person_regex : str
        A regular expression that finds the person in a PatientID or a file name.
    raw : tuple of RawRule
        How to read voxels without a header.
    """

    name: str
    title: str
    version: str
    licence: str
    protocol: str
    citation: str = ""
    homepage: str = ""
    notes: str = ""
    modality: tuple[str, ...] = ()
    size_bytes: int | None = None
    path: str = ""
    package: str = ""
    distribution: str = ""
    files: tuple[SourceFile, ...] = ()
    person_regex: str = ""
    raw: tuple[RawRule, ...] = ()


@dataclass(frozen=True)
class Listing:
    """Every descriptor at hand, by name, and what is wrong with the files that are none."""

    descriptors: tuple[Descriptor, ...]
    problems: tuple[str, ...]


def find_folders(package: Path, user: str) -> list[Path]:
    """Return the folders that hold descriptors: medkit's, then the user's.

    Parameters
    ----------
    package : Path
        The folder of the package medkit. A wheel has ``catalogs`` inside it, a checkout beside.
    user : str
        The value of ``MEDKIT_CATALOGS``, or nothing.
    """
    inside = package / "catalogs"
    shipped = inside if inside.is_dir() else package.parent / "catalogs"
    folders = [shipped, Path(user)] if user else [shipped]
    for folder in folders:
        if not folder.is_dir():
            raise SourceError(f"{folder} is no folder of descriptors; correct {USER_FOLDER}")
    return folders


def list_descriptors() -> Listing:
    """Return every descriptor; a file that is none is a problem, not the end."""
    descriptors, problems = [], []
    for path in _find_files().values():
        try:
            descriptors.append(read_descriptor(path))
        except SourceError as error:
            problems.append(str(error))
    return Listing(tuple(descriptors), tuple(problems))


def find_descriptor(name: str) -> Descriptor | None:
    """Return the descriptor of that name, or None."""
    path = _find_files().get(name)
    return read_descriptor(path) if path else None


def read_descriptor(path: Path) -> Descriptor:
    """Read one descriptor.

    Raises
    ------
    SourceError
        If the file is not TOML, or a key is unknown, missing or wrong; the message names file and
        key, what was received and what would work.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SourceError(f"{path} cannot be read as TOML: {error}") from None
    descriptor = _build(Descriptor, table, str(path))
    _check(_DESCRIPTOR_RULES, descriptor, str(path))
    if descriptor.name != path.stem:
        raise SourceError(f"{path}: name is {descriptor.name!r}; it must be the file's, too")
    for number, file in enumerate(descriptor.files):
        _check(_FILE_RULES, file, f"{path}: files[{number}]")
    for number, rule in enumerate(descriptor.raw):
        _check(_RAW_RULES, rule, f"{path}: raw[{number}]")
    return descriptor


def write_raw_rules(rules: Sequence[RawRule]) -> list[dict[str, Any]]:
    """Return rules as plain values that JSON keeps; `read_raw_rules` reads them."""
    stated = [asdict(rule) for rule in rules]
    kept = [{key: value for key, value in each.items() if value} for each in stated]
    plain: list[dict[str, Any]] = json.loads(json.dumps(kept))  # tuples become lists
    return plain


def read_raw_rules(tables: Sequence[Mapping[str, Any]], where: str) -> tuple[RawRule, ...]:
    """Return rules that were written down as plain values, checked as those of a descriptor.

    Raises
    ------
    SourceError
        If one is not as said; ``where`` they are from is part of the message.
    """
    rules = tuple(_build_rule(table, where) for table in tables)
    for rule in rules:
        _check(_RAW_RULES, rule, where)
    return rules


def _find_files() -> dict[str, Path]:
    folders = find_folders(Path(__file__).parents[1], os.environ.get(USER_FOLDER, ""))
    found = {path.stem: path for folder in folders for path in folder.glob("*.toml")}
    return dict(sorted(found.items()))


# ---- The strict reading of a table ---------------------------------------------------------------

Table = TypeVar("Table", Descriptor, SourceFile, RawRule)


def _is_list_of(kind: type | tuple[type, ...], value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, kind) and not isinstance(item, bool) for item in value
    )


# By the type of a field: what is accepted in TOML, and how that is said.
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "str": (lambda value: isinstance(value, str), "text in quotes"),
    "bool": (lambda value: isinstance(value, bool), "true or false"),
    "int | None": (
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value > 0,
        "a whole number above 0",
    ),
    "tuple[str, ...]": (lambda value: _is_list_of(str, value), "a list of texts"),
    "tuple[float, ...]": (lambda value: _is_list_of((int, float), value), "a list of numbers"),
    "tuple[tuple[int, ...], ...]": (
        lambda value: isinstance(value, list) and all(_is_list_of(int, item) for item in value),
        "a list of lists of whole numbers",
    ),
    "tuple[SourceFile, ...]": (lambda value: _is_list_of(dict, value), "tables, [[files]]"),
    "tuple[RawRule, ...]": (lambda value: _is_list_of(dict, value), "tables, [[raw]]"),
}


def _build(kind: type[Table], table: Mapping[str, Any], where: str) -> Table:
    known = {field.name: str(field.type) for field in fields(kind)}
    for key, value in table.items():
        if key not in known:
            raise SourceError(f"{where}: unknown key {key!r}; known are {', '.join(known)}")
        is_right, words = _KINDS[known[key]]
        if not is_right(value):
            raise SourceError(f"{where}: {key} is {value!r}; it must be {words}")
    missing = [f.name for f in fields(kind) if f.default is MISSING and f.name not in table]
    if missing:
        raise SourceError(f"{where}: {', '.join(missing)} missing; every descriptor has them")
    values = {key: _freeze(value) for key, value in table.items()}
    if kind is Descriptor:  # its files are tables; those of a rule are a text
        for key, inner in (("files", _build_file), ("raw", _build_rule)):
            entries = enumerate(values.get(key, ()))
            values[key] = tuple(inner(entry, f"{where}: {key}[{n}]") for n, entry in entries)
    return kind(**values)


def _build_file(table: Mapping[str, Any], where: str) -> SourceFile:
    return _build(SourceFile, table, where)


def _build_rule(table: Mapping[str, Any], where: str) -> RawRule:
    return _build(RawRule, table, where)


def _freeze(value: Any) -> Any:
    return tuple(_freeze(item) for item in value) if isinstance(value, list) else value


def _check(
    rules: tuple[tuple[str, Callable[[Any], bool], str], ...], found: Any, where: str
) -> None:
    for key, is_right, words in rules:
        if not is_right(found):
            raise SourceError(f"{where}: {key} is {getattr(found, key)!r}; it must be {words}")


def _is_name(name: str) -> bool:
    try:
        return bool(check_name(name))
    except UsageError:
        return False


def _is_regex(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def _is_https(url: str) -> bool:
    return is_safe(url) and urlsplit(url).username is None


def _fits_package(descriptor: Descriptor) -> bool:
    path = PurePosixPath(descriptor.path)
    if not descriptor.package:
        return not descriptor.path or Path(descriptor.path).is_absolute()
    return not path.is_absolute() and ".." not in path.parts


def _has_distinct_files(descriptor: Descriptor) -> bool:
    names = [stem_of(name_of_url(file.url)).casefold() for file in descriptor.files]
    return len(set(names)) == len(names)


_DESCRIPTOR_RULES: tuple[tuple[str, Callable[[Descriptor], bool], str], ...] = (
    ("name", lambda d: _is_name(d.name), "letters, digits, '.', '_' and '-', 100 at most"),
    ("title", lambda d: bool(d.title.strip()), "what the set is called"),
    ("version", lambda d: bool(d.version.strip()), "the version described"),
    ("licence", lambda d: bool(d.licence.strip()), "the licence, in the holder's words"),
    ("protocol", lambda d: d.protocol in ("local", "https"), "'local' or 'https'"),
    ("size_bytes", lambda d: d.size_bytes is not None, "given"),
    ("homepage", lambda d: not d.homepage or _is_https(d.homepage), "an https address"),
    ("person_regex", lambda d: _is_regex(d.person_regex), "a regular expression"),
    ("files", lambda d: bool(d.files) == (d.protocol == "https"), "given for 'https' alone"),
    ("files", _has_distinct_files, "of names that differ"),
    ("path", lambda d: bool(d.path) == (d.protocol == "local"), "given for 'local' alone"),
    ("path", _fits_package, "absolute, or inside the package"),
    ("package", lambda d: not d.package or d.package.isidentifier(), "a top-level package"),
    ("package", lambda d: not d.package or d.protocol == "local", "given for 'local' alone"),
    (
        "distribution",
        lambda d: bool(d.distribution) == bool(d.package),
        "given with package, and only with it",
    ),
)
_FILE_RULES: tuple[tuple[str, Callable[[SourceFile], bool], str], ...] = (
    ("url", lambda f: _is_https(f.url), "an https address without a password"),
    (
        "sha256",
        lambda f: bool(re.fullmatch("[0-9a-f]{64}", f.sha256)),
        "64 hexadecimal digits, in lower case",
    ),
)
_RAW_TYPES = {
    f"{kind}{bits}": bits // 8
    for kind, widths in {"uint": (8, 16, 32), "int": (8, 16, 32), "float": (32, 64)}.items()
    for bits in widths
}


def _has_distinct_shapes(rule: RawRule) -> bool:
    voxels = {math.prod(shape) for shape in rule.shapes}
    return bool(rule.shapes) and len(voxels) == len(rule.shapes)


def _is_orientation(numbers: tuple[float, ...]) -> bool:
    if not numbers:
        return True
    row, column = numbers[:3], numbers[3:]
    products = [
        sum(a * b for a, b in zip(*pair, strict=False))
        for pair in ((row, row), (column, column), (row, column))
    ]
    return len(numbers) == 6 and all(
        abs(product - right) < 1e-3 for product, right in zip(products, (1, 1, 0), strict=True)
    )


_RAW_RULES: tuple[tuple[str, Callable[[RawRule], bool], str], ...] = (
    ("files", lambda r: bool(r.files), "a pattern such as '*.dat'"),
    ("dtype", lambda r: r.dtype in _RAW_TYPES, f"one of {', '.join(_RAW_TYPES)}"),
    (
        "byte_order",
        lambda r: (
            r.byte_order in ("little", "big") or (_RAW_TYPES[r.dtype] == 1 and not r.byte_order)
        ),
        "'little' or 'big'",
    ),
    (
        "shapes",
        lambda r: all(len(shape) == 3 and min(shape) > 0 for shape in r.shapes),
        "lists of three numbers above 0: columns, rows, slices",
    ),
    ("shapes", _has_distinct_shapes, "of numbers of voxels that differ: the size must decide"),
    (
        "spacing",
        lambda r: len(r.spacing) == 3 and all(0 < size < math.inf for size in r.spacing),
        "three numbers of mm above 0: along a row, from row to row, from slice to slice",
    ),
    (
        "orientation",
        lambda r: _is_orientation(r.orientation),
        "six direction cosines, of rows and of columns, at right angles",
    ),
)
