"""The folders that a catalog is made of."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import NoReturn

from medkit.catalog.identity import compile_person_regex
from medkit.catalog.journal import Record, append_journal, find_roots, read_journal
from medkit.errors import UsageError
from medkit.sources.descriptor import RawRule, read_raw_rules, write_raw_rules
from medkit.sources.fetching import FetchedSource, list_sources
from medkit.sources.trees import is_folder, is_remote, list_remote, normalise_root
from medkit.workspace import Workspace


@dataclass(frozen=True)
class Root:
    """A folder to scan.

    Attributes
    ----------
    source : str
        Whose images these are: PatientIDs are compared within a source.
    folder : Path or str
        The folder, or its URL; it is never written to.
    person_regex : str, optional
        Tells the person from a PatientID, or from the path of a picture; its first group, or
        else the whole match. None leaves the rule as it was, the empty string removes it.
    raw : tuple of RawRule
        How to read voxels without a header; such files are not opened.
    """

    source: str
    folder: Path | str
    person_regex: str | None = None
    raw: tuple[RawRule, ...] = ()

    @property
    def place(self) -> str:
        """The folder as the table ``files`` has it."""
        return normalise_root(self.folder)


def choose_roots(
    workspace: Workspace,
    folders: Sequence[Path | str],
    source: str | None = None,
    person_regex: str | None = None,
    forget: Sequence[Path | str] = (),
) -> list[Root]:
    """Return what to scan: the folders given, else each of ``raw/`` and those scanned before.

    Parameters
    ----------
    workspace : Workspace
        Whose catalog it is for.
    folders : sequence of Path or str
        What the user gave: folders, or URLs of such.
    source : str, optional
        By default what it was before, or the name it was fetched under, or ``local``.
    person_regex : str, optional
        As of `Root`.
    forget : sequence of Path or str
        Folders not to scan, unless they are given too.

    Raises
    ------
    UsageError
        If there is nothing to scan, or the folder of a source that was fetched is gone.
    """
    known = find_roots(read_journal(workspace.catalog))
    fetched = {normalise_root(one.folder): one for one in list_sources(workspace)}
    chosen = {normalise_root(folder) for folder in folders}
    if not folders:
        before = (folder for folder in known if _is_there(folder))
        chosen = {*fetched, *before} - {normalise_root(folder) for folder in forget}
        for folder in sorted(chosen & fetched.keys()):
            if not _is_there(folder):
                _refuse_gone(fetched[folder], workspace)
    if not chosen:
        raise UsageError("there is nothing to scan yet: give a folder of images")
    return [
        _complete(Root(source or "", _to_folder(folder), person_regex), fetched.get(folder), known)
        for folder in sorted(chosen)
    ]


def _to_folder(place: str) -> Path | str:
    return place if is_remote(place) else Path(place)


def _is_there(place: str) -> bool:
    """Tell whether a folder is there; one far away is not without the driver of its scheme."""
    with suppress(UsageError):
        return is_folder(place)
    return False


def _complete(root: Root, fetched: FetchedSource | None, known: Mapping[str, Record]) -> Root:
    """Return the root with what it was before, or what its source says, where it says nothing."""
    before = known.get(root.place, {})
    source = root.source or before.get("source") or (fetched.name if fetched else "local")
    rule = root.person_regex
    return Root(
        source,
        root.folder,
        fetched.person_regex if fetched and rule is None else rule,
        fetched.raw if fetched else read_raw_rules(before.get("raw", []), "the journal"),
    )


def _refuse_gone(source: FetchedSource, workspace: Workspace) -> NoReturn:
    raise UsageError(
        f"there is no folder {source.folder}, which was fetched as {source.name!r}; mount its "
        f"disk, or, if it moved, remove {workspace.source(source.name)} and fetch it from its new "
        "place"
    )


def forget_roots(catalog_folder: Path, folders: Sequence[Path | str]) -> None:
    """Write to the journal that folders are no longer part of the catalog.

    Raises
    ------
    UsageError
        If one was never scanned.
    """
    records = read_journal(catalog_folder)
    known = find_roots(records)
    ever = sorted({record["folder"] for record in records if record["type"] == "root"})
    gone = [normalise_root(folder) for folder in folders]
    for folder in gone:
        if folder not in ever:
            raise UsageError(
                f"{folder} was never scanned; scanned are: {', '.join(ever) or 'none'}"
            )
    # One that is forgotten already is not news: a command that was killed is given again.
    news = [{"type": "forget-root", "folder": folder} for folder in gone if folder in known]
    if news:
        append_journal(catalog_folder, news)


def remember_roots(catalog_folder: Path, roots: Sequence[Root]) -> None:
    """Write roots to the journal, where they say something new.

    Raises
    ------
    UsageError
        If a folder is missing or lies in another one, or its person rule is no regular
        expression.
    """
    known = find_roots(read_journal(catalog_folder))
    records = [_describe(root, known) for root in roots]
    _check_apart([*known, *(record["folder"] for record in records)])
    news = [record for record in records if record != known.get(record["folder"])]
    if news:
        append_journal(catalog_folder, news)


def _describe(root: Root, known: Mapping[str, Record]) -> Record:
    place = root.place
    if not _is_there(place):
        _refuse_absent(place)
    rule = root.person_regex
    if rule is None:
        rule = known.get(place, {}).get("person_regex")
    if rule:
        compile_person_regex(rule)
    record = {
        "type": "root",
        "folder": place,
        "source": root.source,
        "person_regex": rule or None,
    }
    return record | ({"raw": write_raw_rules(root.raw)} if root.raw else {})


def _refuse_absent(place: str) -> NoReturn:
    """Raise, with what the driver of a place far away says."""
    if not is_remote(place):
        raise UsageError(f"there is no folder {place}; is its disk mounted?")
    words = "there is nothing"
    try:
        next(list_remote(place), None)
    except OSError as error:
        words = str(error.strerror)
    raise UsageError(f"{place} cannot be scanned: {words}")


def find_absent_roots(catalog_folder: Path, scanned: Collection[str] = ()) -> list[str]:
    """Return a sentence for each folder, scanned before but not just now, that is not there."""
    return [
        f"the folder {folder}, scanned before, is not there; its files stay as they were. "
        f"{'Connect to it' if is_remote(folder) else 'Mount its disk'}, or, if it moved, drop it "
        "with --forget"
        for folder in find_roots(read_journal(catalog_folder))
        if folder not in scanned and not _is_there(folder)
    ]


def _check_apart(folders: Iterable[str]) -> None:
    places = {*folders}
    for inner in sorted(places):
        for outer in PurePath(inner).parents:
            # A path has one slash where a URL has two.
            shown = str(outer).replace(":/", "://", 1) if is_remote(inner) else str(outer)
            if shown in places:
                raise UsageError(
                    f"{inner} lies in {shown}, which is scanned too; its files would be there "
                    "twice. Give one of them, and drop the other with --forget"
                )
