"""What a public source publishes: one TOML file a source, data only.

Descriptors lie in the ``catalogs`` folder that comes with medkit, in the folder of a plugin that
the user names, and in a folder of the user's own that the environment variable
``MEDKIT_CATALOGS`` names; of two with one name, the one named later here is taken.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medkit.errors import SourceError, UsageError
from medkit.sources import rules

if TYPE_CHECKING:
    from medkit.sources.plans import Plan

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
    md5 : str
        Likewise, 32 hexadecimal digits, where the publisher states no SHA-256.
    variant : str
        Which form of the set it belongs to, such as ``"64"`` for pictures of 64 pixels; nothing
        for one that belongs to every form. `choose_variant` takes one.
    """

    url: str
    sha256: str = ""
    size: int | None = None
    unpack: bool = True
    md5: str = ""
    variant: str = ""


@dataclass(frozen=True)
class LabelRule:
    """How ``medkit label`` learns a label of the source's images.

    Attributes
    ----------
    name : str
        Of the label.
    table : str
        A CSV or Parquet file of the source, by its path within it.
    column, on : str
        Its columns of values and of keys, as the options of ``medkit label``.
    tag, regex : str
        Instead of a table: a DICOM keyword, or an expression that finds the value in the path.
    """

    name: str
    table: str = ""
    column: str = ""
    on: str = ""
    tag: str = ""
    regex: str = ""


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
        From a voxel to the next along a row, from row to row, and from slice to slice, mm. A
        descriptor leaves it out where nobody can be sure; the user then gives it.
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
    spacing: tuple[float, ...] = ()
    byte_order: str = ""
    offset: int | None = None
    orientation: tuple[float, ...] = ()


@dataclass(frozen=True)
class Descriptor:
    """What is known of a source before a byte of it is moved.

    Attributes
    ----------
    name, title, version, licence, citation, homepage, notes : str
        ``licence`` is the holder's own words or an SPDX name; ``notes`` is what a user must know,
        and how access is had where it is not open.
    protocol : str
        ``"local"``: images that are on this machine already. ``"https"``: files to download.
        ``"own"``: files that the user must get and hand over. ``"idc"``, ``"tcia"``,
        ``"kaggle"``, ``"dicomweb"``, ``"dimse"``, ``"remote"``: as the module of that name says;
        or one of a plugin.
    access : str
        ``"open"``; ``"account"``: an account, and rules to accept; ``"own"``: nothing can fetch
        it, the user does; ``"withdrawn"``: it is to be had no more.
    instead : tuple of str
        Sources that serve the same end, where it is withdrawn.
    modality : tuple of str
        Values of Modality (0008,0060) that its images have.
    series_count, file_count, size_bytes : int or None
        Of all that is fetched, where someone states them.
    selection, where : str
        What is asked of a protocol that serves many sets, and a condition on it; each protocol
        says which.
    path : str
        Local: the folder, absolute, or relative to the package.
    package, distribution : str
        Local: the installed Python package that holds the folder, and what to install it by.
    files : tuple of SourceFile
        What is brought; none where the images are read in place.
    hosts : tuple of str
        Https: hosts that the publisher's redirects may lead to, besides those of its files.
    person_regex : str
        A regular expression that finds the person in a PatientID or a file name.
    labels : tuple of LabelRule
        What is known of its images.
    raw : tuple of RawRule
        How to read voxels without a header.
    sides : str
        ``"matter"``: left and right mean something, and training may mirror no image; ``"free"``:
        they do not; nothing where nobody says.
    """

    name: str
    title: str
    version: str
    licence: str
    protocol: str
    citation: str = ""
    homepage: str = ""
    notes: str = ""
    access: str = "open"
    instead: tuple[str, ...] = ()
    modality: tuple[str, ...] = ()
    series_count: int | None = None
    file_count: int | None = None
    size_bytes: int | None = None
    selection: str = ""
    where: str = ""
    path: str = ""
    package: str = ""
    distribution: str = ""
    files: tuple[SourceFile, ...] = ()
    hosts: tuple[str, ...] = ()
    person_regex: str = ""
    labels: tuple[LabelRule, ...] = ()
    raw: tuple[RawRule, ...] = ()
    sides: str = ""

    @property
    def variants(self) -> tuple[str, ...]:
        """The forms that it comes in; the first is taken where none is named."""
        return tuple(dict.fromkeys(file.variant for file in self.files if file.variant))


@dataclass(frozen=True)
class Plugged:
    """What a plugin adds: the hook ``medkit_sources`` returns it.

    Attributes
    ----------
    folder : Path or None
        Of descriptors, one TOML file a source.
    protocols : mapping of str to callable
        Takes a `Descriptor` of that protocol and returns a `plans.Plan`.
    """

    folder: Path | None = None
    protocols: Mapping[str, Callable[[Descriptor], Plan]] = field(default_factory=dict)


@dataclass(frozen=True)
class Listing:
    """Every descriptor at hand, by name, and what is wrong with the files that are none."""

    descriptors: tuple[Descriptor, ...]
    problems: tuple[str, ...]


def find_folders(package: Path, user: str, *, plugged: Path | None = None) -> list[Path]:
    """Return the folders that hold descriptors: medkit's, then a plugin's, then the user's.

    Parameters
    ----------
    package : Path
        The folder of the package medkit. A wheel has ``catalogs`` inside it, a checkout beside.
    user : str
        The value of ``MEDKIT_CATALOGS``, or nothing.
    plugged : Path, optional
        The folder of a plugin.
    """
    inside = package / "catalogs"
    shipped = inside if inside.is_dir() else package.parent / "catalogs"
    folders = [shipped, *([plugged] if plugged else []), *([Path(user)] if user else [])]
    for folder in folders:
        if not folder.is_dir():
            raise SourceError(f"{folder} is no folder of descriptors; correct {USER_FOLDER}")
    return folders


def list_descriptors(plugged: Plugged = Plugged()) -> Listing:
    """Return every descriptor; a file that is none is a problem, not the end."""
    descriptors, problems = [], []
    for path in _find_files(plugged).values():
        try:
            descriptors.append(read_descriptor(path, plugged.protocols))
        except SourceError as error:
            problems.append(str(error))
    return Listing(tuple(descriptors), tuple(problems))


def search_descriptors(words: str, plugged: Plugged = Plugged()) -> Listing:
    """Return the descriptors that have every one of some words in what they say, by name.

    Letters count alike in either case; a word is found within a longer one.
    """
    wanted = words.casefold().split()
    listing = list_descriptors(plugged)
    found = [each for each in listing.descriptors if _has_words(each, wanted)]
    return Listing(tuple(found), listing.problems)


def _has_words(descriptor: Descriptor, words: list[str]) -> bool:
    said = json.dumps(asdict(descriptor), ensure_ascii=False).casefold()
    return all(word in said for word in words)


def find_descriptor(name: str, plugged: Plugged = Plugged()) -> Descriptor | None:
    """Return the descriptor of that name, or None; ``Lung_Phantom`` is ``lung-phantom``, too."""
    files = _find_files(plugged)
    path = files.get(name) or files.get(name.lower().replace("_", "-"))
    return read_descriptor(path, plugged.protocols) if path else None


def read_descriptor(path: Path, protocols: Collection[str] = ()) -> Descriptor:
    """Read one descriptor; its protocol is one of medkit's, or of those named.

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
    descriptor: Descriptor = rules.build(Descriptor, table, str(path), _TABLES)
    if descriptor.protocol not in (known := (*rules.PROTOCOLS, *protocols)):
        words = ", ".join(map(repr, known))
        raise SourceError(f"{path}: protocol is {descriptor.protocol!r}; it must be of {words}")
    rules.check(rules.DESCRIPTOR, descriptor, str(path))
    if descriptor.name != path.stem:
        raise SourceError(f"{path}: name is {descriptor.name!r}; it must be the file's, too")
    for key, asked in (
        ("files", rules.FILE),
        ("labels", rules.LABEL),
        ("raw", rules.OPEN_RAW),
    ):
        for number, entry in enumerate(getattr(descriptor, key)):
            rules.check(asked, entry, f"{path}: {key}[{number}]")
    return descriptor


def choose_variant(descriptor: Descriptor, variant: str = "") -> Descriptor:
    """Return a descriptor of one form of a set, by default the first; its name says which.

    Raises
    ------
    UsageError
        If the set has no such form.
    """
    known = descriptor.variants
    if not known and not variant:
        return descriptor
    if variant and variant not in known:
        forms = f"its forms are {', '.join(known)}" if known else "it has one form alone"
        raise UsageError(f"{descriptor.name} has no form {variant!r}; {forms}")
    chosen = variant or known[0]
    files = tuple(file for file in descriptor.files if file.variant in ("", chosen))
    sizes = [file.size for file in files]
    size = sum(size for size in sizes if size) if all(sizes) else None
    name = descriptor.name if chosen == known[0] else f"{descriptor.name}-{chosen}"
    return replace(descriptor, name=name, files=files, size_bytes=size, file_count=len(files))


def set_spacing(descriptor: Descriptor, spacing: Sequence[float]) -> Descriptor:
    """Return a descriptor whose rules for raw files all have a spacing.

    Parameters
    ----------
    descriptor : Descriptor
        Of the source.
    spacing : sequence of float
        What the user says, mm: along a row, from row to row, from slice to slice; or nothing.

    Raises
    ------
    UsageError
        If it is needed and was not given, was given and is not needed, or is none.
    """
    lacking = any(not rule.spacing for rule in descriptor.raw)
    if not lacking and not spacing:
        return descriptor
    if not lacking:
        raise UsageError(f"{descriptor.name} has no rule that lacks a spacing; leave --spacing out")
    if not spacing:
        raise UsageError(
            f"{descriptor.name}: nothing in its files says how large a voxel is; give it with "
            f"--spacing COLUMN,ROW,SLICE in mm. {descriptor.notes}"
        )
    raw = tuple(replace(rule, spacing=rule.spacing or tuple(spacing)) for rule in descriptor.raw)
    try:
        for rule in raw:
            rules.check(rules.RAW, rule, "--spacing")
    except SourceError as error:
        raise UsageError(str(error)) from None
    return replace(descriptor, raw=raw)


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
    read: tuple[RawRule, ...] = tuple(rules.build(RawRule, table, where) for table in tables)
    for rule in read:
        rules.check(rules.RAW, rule, where)
    return read


# What the tables within a descriptor are read as; those of a rule are plain values.
_TABLES = {
    "files": partial(rules.build, SourceFile),
    "labels": partial(rules.build, LabelRule),
    "raw": partial(rules.build, RawRule),
}


def _find_files(plugged: Plugged) -> dict[str, Path]:
    folders = find_folders(
        Path(__file__).parents[1], os.environ.get(USER_FOLDER, ""), plugged=plugged.folder
    )
    found = {path.stem: path for folder in folders for path in folder.glob("*.toml")}
    return dict(sorted(found.items()))
