"""The folders that a catalog is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from medkit.catalog.identity import compile_person_regex
from medkit.catalog.journal import Record, append_journal, find_roots, read_journal
from medkit.errors import UsageError
from medkit.sources.fetching import FetchedSource, list_sources
from medkit.workspace import Workspace


@dataclass(frozen=True)
class Root:
    """A folder to scan.

    Attributes
    ----------
    source : str
        Whose images these are: PatientIDs are compared within a source.
    folder : Path
        The folder; it is never written to.
    person_regex : str, optional
        Tells the person from a PatientID, or from the path of a picture; its first group, or
        else the whole match. None leaves the rule as it was, the empty string removes it.
    """

    source: str
    folder: Path
    person_regex: str | None = None


def choose_roots(
    workspace: Workspace,
    folders: Sequence[Path],
    source: str | None = None,
    person_regex: str | None = None,
    forget: Sequence[Path] = (),
) -> list[Root]:
    """Return what to scan: the folders given, else each of ``raw/`` and those scanned before.

    Parameters
    ----------
    workspace : Workspace
        Whose catalog it is for.
    folders : sequence of Path
        What the user gave.
    source : str, optional
        By default what it was before, or the name it was fetched under, or ``local``.
    person_regex : str, optional
        As of `Root`.
    forget : sequence of Path
        Folders not to scan, unless they are given too.

    Raises
    ------
    UsageError
        If there is nothing to scan, or the folder of a source that was fetched is gone.
    """
    known = find_roots(read_journal(workspace.catalog))
    fetched = {source.folder.resolve(): source for source in list_sources(workspace)}
    if not folders:
        dropped = {folder.resolve() for folder in forget}
        before = [Path(folder) for folder in known if Path(folder).is_dir()]
        folders = [folder for folder in (*fetched, *before) if folder not in dropped]
        for folder in folders:
            if not folder.is_dir():
                _refuse_gone(fetched[folder], workspace)
    chosen = {folder.resolve() for folder in folders}
    if not chosen:
        raise UsageError("there is nothing to scan yet: give a folder of images")
    return [
        _complete(Root(source or "", folder, person_regex), fetched.get(folder), known)
        for folder in sorted(chosen)
    ]


def _complete(root: Root, fetched: FetchedSource | None, known: Mapping[str, Record]) -> Root:
    """Return the root with what it was before, or what its source says, where it says nothing."""
    before = known.get(str(root.folder), {}).get("source")
    source = root.source or before or (fetched.name if fetched else "local")
    rule = root.person_regex
    return Root(source, root.folder, fetched.person_regex if fetched and rule is None else rule)


def _refuse_gone(source: FetchedSource, workspace: Workspace) -> NoReturn:
    raise UsageError(
        f"there is no folder {source.folder}, which was fetched as {source.name!r}; mount its "
        f"disk, or, if it moved, remove {workspace.source(source.name)} and fetch it from its new "
        "place"
    )


def forget_roots(catalog_folder: Path, folders: Sequence[Path]) -> None:
    """Write to the journal that folders are no longer part of the catalog.

    Raises
    ------
    UsageError
        If one was never scanned.
    """
    records = read_journal(catalog_folder)
    known = find_roots(records)
    ever = sorted({record["folder"] for record in records if record["type"] == "root"})
    gone = [str(folder.resolve()) for folder in folders]
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
    folder = root.folder.resolve()
    if not folder.is_dir():
        raise UsageError(f"there is no folder {root.folder}; is its disk mounted?")
    rule = root.person_regex
    if rule is None:
        rule = known.get(str(folder), {}).get("person_regex")
    if rule:
        compile_person_regex(rule)
    return {
        "type": "root",
        "folder": str(folder),
        "source": root.source,
        "person_regex": rule or None,
    }


def find_absent_roots(catalog_folder: Path) -> list[str]:
    """Return a sentence for each folder, scanned before, that is not there."""
    return [
        f"the folder {folder}, scanned before, is not there; its files stay as they were. Mount "
        "its disk, or, if it moved, drop it with --forget"
        for folder in find_roots(read_journal(catalog_folder))
        if not Path(folder).is_dir()
    ]


def _check_apart(folders: Iterable[str]) -> None:
    paths = sorted({Path(folder) for folder in folders})
    for inner in paths:
        for outer in inner.parents:
            if outer in paths:
                raise UsageError(
                    f"{inner} lies in {outer}, which is scanned too; its files would be there "
                    "twice. Give one of them, and drop the other with --forget"
                )
