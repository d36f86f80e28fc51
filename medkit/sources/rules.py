"""What each key of a descriptor must be: the strict reading of a table, and the rules."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from medkit.errors import SourceError, UsageError
from medkit.sources.addresses import is_safe, name_of_url, stem_of
from medkit.workspace import check_name

Rules = tuple[tuple[str, Callable[[Any], bool], str], ...]

_ACCESS = ("open", "account", "own", "withdrawn")
_WITHOUT_SELECTION = ("local", "https", "own")
PROTOCOLS = ("local", "https", "own", "idc", "tcia", "kaggle", "dicomweb", "dimse", "remote")
_HOST = re.compile(r"(\*\.)?[a-z0-9-]+(\.[a-z0-9-]+)+")
_NONE: Mapping[str, Any] = {}


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
    "tuple[LabelRule, ...]": (lambda value: _is_list_of(dict, value), "tables, [[labels]]"),
    "tuple[RawRule, ...]": (lambda value: _is_list_of(dict, value), "tables, [[raw]]"),
}


def build(
    kind: Any,
    table: Mapping[str, Any],
    where: str,
    inner: Mapping[str, Callable[[Mapping[str, Any], str], Any]] = _NONE,
) -> Any:
    """Return a dataclass made from a table that has its keys, with values of their types.

    Parameters
    ----------
    kind : type
        The dataclass.
    table : mapping
        As read from TOML or JSON.
    where : str
        It was read; the start of each message.
    inner : mapping of str to callable
        How the tables within it are made, by key.

    Raises
    ------
    SourceError
        If a key is unknown or missing, or a value is of another type.
    """
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
    for key, make in inner.items():
        entries = enumerate(values.get(key, ()))
        values[key] = tuple(make(entry, f"{where}: {key}[{number}]") for number, entry in entries)
    return kind(**values)


def _freeze(value: Any) -> Any:
    return tuple(_freeze(item) for item in value) if isinstance(value, list) else value


def check(rules: Rules, found: Any, where: str) -> None:
    """Refuse what does not keep its rules; the message has key, value, and what would work.

    Raises
    ------
    SourceError
        If one is broken.
    """
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


def _fits_package(descriptor: Any) -> bool:
    path = PurePosixPath(descriptor.path)
    if not descriptor.package:
        return not descriptor.path or Path(descriptor.path).is_absolute()
    return not path.is_absolute() and ".." not in path.parts


def _has_distinct_files(descriptor: Any) -> bool:
    names = [
        (stem_of(name_of_url(file.url)).casefold(), variant)
        for file in descriptor.files
        for variant in ([file.variant] if file.variant else descriptor.variants or [""])
    ]
    return len(set(names)) == len(names)


def _is_inside(path: str) -> bool:
    parts = PurePosixPath(path)
    return not parts.is_absolute() and ".." not in parts.parts and "\\" not in path


DESCRIPTOR: Rules = (
    ("name", lambda d: _is_name(d.name), "letters, digits, '.', '_' and '-', 100 at most"),
    ("title", lambda d: bool(d.title.strip()), "what the set is called"),
    ("version", lambda d: bool(d.version.strip()), "the version described"),
    ("licence", lambda d: bool(d.licence.strip()), "the licence, in the holder's words"),
    ("access", lambda d: d.access in _ACCESS, f"one of {', '.join(_ACCESS)}"),
    ("instead", lambda d: not d.instead or d.access == "withdrawn", "given for what is withdrawn"),
    ("homepage", lambda d: not d.homepage or _is_https(d.homepage), "an https address"),
    ("person_regex", lambda d: _is_regex(d.person_regex), "a regular expression"),
    ("files", lambda d: bool(d.files) == (d.protocol == "https"), "given for 'https' alone"),
    ("files", _has_distinct_files, "of names that differ"),
    ("hosts", lambda d: not d.hosts or d.protocol == "https", "given for 'https' alone"),
    ("hosts", lambda d: all(map(_HOST.fullmatch, d.hosts)), "names of hosts"),
    ("path", lambda d: bool(d.path) == (d.protocol == "local"), "given for 'local' alone"),
    ("path", _fits_package, "absolute, or inside the package"),
    ("package", lambda d: not d.package or d.package.isidentifier(), "a top-level package"),
    ("package", lambda d: not d.package or d.protocol == "local", "given for 'local' alone"),
    (
        "distribution",
        lambda d: bool(d.distribution) == bool(d.package),
        "given with package, and only with it",
    ),
    (
        "selection",
        lambda d: bool(d.selection) == (d.protocol not in _WITHOUT_SELECTION),
        f"given, unless the protocol is one of {', '.join(_WITHOUT_SELECTION)}",
    ),
    ("where", lambda d: not d.where or bool(d.selection), "given with a selection alone"),
    ("sides", lambda d: d.sides in ("", "matter", "free"), "'matter' or 'free', or left out"),
)
FILE: Rules = (
    ("url", lambda f: _is_https(f.url), "an https address without a password"),
    (
        "sha256",
        lambda f: bool(re.fullmatch("[0-9a-f]{64}", f.sha256)) or (f.md5 and not f.sha256),
        "64 hexadecimal digits, in lower case; md5 will do where no more is stated",
    ),
    (
        "md5",
        lambda f: not f.md5 or bool(re.fullmatch("[0-9a-f]{32}", f.md5)),
        "32 hexadecimal digits, in lower case",
    ),
    (
        "variant",
        lambda f: not f.variant or _is_name(f.variant),
        "letters, digits, '.', '_' and '-'",
    ),
)
LABEL: Rules = (
    ("name", lambda r: _is_name(r.name), "letters, digits, '.', '_' and '-'"),
    (
        "table",
        lambda r: [bool(r.table), bool(r.tag), bool(r.regex)].count(True) == 1,
        "given, or tag, or regex: one of them",
    ),
    ("table", lambda r: _is_inside(r.table), "the path of a file inside the source"),
    ("column", lambda r: not (r.column or r.on) or bool(r.table), "given with a table alone"),
    ("regex", lambda r: _is_regex(r.regex), "a regular expression"),
)
_RAW_TYPES = {
    f"{kind}{bits}": bits // 8
    for kind, widths in {"uint": (8, 16, 32), "int": (8, 16, 32), "float": (32, 64)}.items()
    for bits in widths
}


def _has_distinct_shapes(rule: Any) -> bool:
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


RAW: Rules = (
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


def _has_no_spacing(rule: Any) -> bool:
    return rule.spacing == () or _RULE_OF_SPACING(rule)


_RULE_OF_SPACING = next(is_right for key, is_right, _ in RAW if key == "spacing")
# What a descriptor may leave to the user.
OPEN_RAW: Rules = tuple(
    (key, _has_no_spacing if key == "spacing" else is_right, words) for key, is_right, words in RAW
)
