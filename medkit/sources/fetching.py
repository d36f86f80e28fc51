"""Bringing a source into the workspace: whole or not at all, and found again.

``raw/NAME`` appears in one step when everything is in it, with ``provenance.json`` and
``files.jsonl``, which lists every file with its hash and where it is from. Until then the work
lies in ``raw/.NAME.part``, where a fetch that was killed goes on. A local folder is not copied:
its ``raw/NAME`` holds ``provenance.json`` alone, which says where the images are.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medkit.engine import Progress, count_workers, silent
from medkit.errors import SourceError, UsageError, WorkspaceError
from medkit.sources.addresses import hide_query
from medkit.sources.descriptor import RawRule, read_raw_rules, write_raw_rules
from medkit.sources.ledger import Ledger
from medkit.sources.pace import Pace
from medkit.workspace import (
    Workspace,
    hash_file,
    hash_json,
    name_full_disk,
    read_json,
    remove_folder,
    sync,
    write_beside,
    write_json,
)

if TYPE_CHECKING:
    from medkit.sources.plans import Plan

PROVENANCE = "provenance.json"
FILES = "files.jsonl"
_LEDGER = "ledger.jsonl"
_FEW = 100
_STATED = (
    *("title", "version", "licence", "citation", "homepage", "protocol", "person_regex"),
    "sides",
)
_KEYS = {"name", *_STATED, "request", "location", "fetched", "files", "size", "references"}


@dataclass(frozen=True)
class FetchedSource:
    """A source of the workspace, as ``medkit catalog`` scans it.

    Attributes
    ----------
    name : str
        Of the source.
    folder : Path
        Where its images lie: in the workspace, or a folder registered elsewhere. It may be gone:
        a disk that is not mounted is for `choose_roots` to refuse.
    title, licence : str
        Empty for a folder that was put into ``raw`` by hand.
    person_regex : str or None
        What finds the person in a PatientID or a file name.
    raw : tuple of RawRule
        How to read voxels without a header.
    sides : str
        As of the descriptor: ``"matter"``, ``"free"``, or nothing.
    """

    name: str
    folder: Path
    title: str = ""
    licence: str = ""
    person_regex: str | None = None
    raw: tuple[RawRule, ...] = ()
    sides: str = ""


@dataclass(frozen=True)
class Fetched:
    """What a fetch came to.

    Attributes
    ----------
    source : FetchedSource
        What is there now.
    status : str
        ``"fetched"``, ``"registered"`` or ``"already there"``.
    files, size : int or None
        Files, and bytes in all; None for a folder that is read in place.
    references : dict of str to int
        How many of the objects that were brought were compared with which kind of hash, such as
        ``{"sha256": 3, "none": 1}``; ``files.jsonl`` says it of each.
    refused : int
        Files that the source lists and did not give, and that were left out as the user wished;
        ``files.jsonl`` names them.
    """

    source: FetchedSource
    status: str
    files: int | None
    size: int | None
    references: dict[str, int]
    refused: int = 0


def list_sources(workspace: Workspace) -> list[FetchedSource]:
    """Return the sources of a workspace, by name; a half-finished fetch is none."""
    return [_describe_source(workspace.raw / name) for name in workspace.names("raw")]


def fetch(
    plan: Plan,
    workspace: Workspace,
    *,
    pace: Pace | None = None,
    progress: Progress = silent,
) -> Fetched:
    """Bring a source into the workspace, or go on where a killed fetch was.

    What is there already is verified, file by file, against the hashes noted when it came.

    Parameters
    ----------
    plan : Plan
        What is brought.
    workspace : Workspace
        Where to.
    pace : Pace, optional
        How fast.
    progress : callable
        Told of bytes, and of files where they are compared.

    Raises
    ------
    UsageError
        If the name is taken by something else, or the folder overlaps the workspace.
    SourceError
        If it cannot be brought whole and right, or is there and damaged.
    DiskFullError
        If there is no room for it.
    """
    target = workspace.source(plan.source.name)
    facts = _gather_facts(plan)
    if target.exists():
        _check_same(target, facts)
    if plan.location is not None:
        place = _place_outside(Path(plan.location), workspace)
        return _register(target, facts | {"location": place})
    if target.exists():
        return _verify(target, progress)
    with name_full_disk(workspace.root):
        work = _open_work(target, facts)
        known = _read_provenance(work)
        if not known["fetched"]:  # else the kill came when all was there
            _check_room(plan, work)
            known |= _bring(plan, work, pace or Pace(), progress)
        _finish(work, target, known)
    return _report(target, "fetched")


def _gather_facts(plan: Plan) -> dict[str, Any]:
    """Return what provenance.json says from the start."""
    stated = asdict(plan.source)
    return {
        "name": plan.source.name,
        **{key: stated[key] for key in _STATED},
        "raw": write_raw_rules(plan.source.raw),
        "citations": [*plan.preflight.citations],
        "licences": dict(plan.preflight.licences),
        # Equal for equal wishes; a hash, because an address can hold a secret.
        "request": hash_json(plan.request),
        "selection": hide_query(plan.source.selection),
        "where": plan.source.where,
        "location": None,
        "fetched": None,
        "files": 0,
        "size": 0,
        "references": {},
    }


def _check_same(target: Path, facts: dict[str, Any]) -> None:
    if not (target / PROVENANCE).exists():
        raise UsageError(f"{target} was not fetched by medkit; choose another name with --name")
    known = _read_provenance(target)
    if known["request"] != facts["request"]:
        raise UsageError(
            f"the name {facts['name']!r} is taken by {known['title']}, version "
            f"{known['version']}; choose another with --name, or remove {target}"
        )


def _place_outside(folder: Path, workspace: Workspace) -> str:
    root, raw = workspace.root.resolve(), workspace.raw.resolve()
    if root.is_relative_to(folder) or folder.is_relative_to(raw):
        raise UsageError(
            f"the images in {folder} and the workspace {root} lie in one another; give a "
            "workspace elsewhere with -w"
        )
    return str(folder)


def _register(target: Path, facts: dict[str, Any]) -> Fetched:
    if not target.exists():
        _finish(_open_work(target, facts), target, facts)
    elif _read_provenance(target) == facts:
        return _report(target, "already there")
    else:  # a package that was installed anew, elsewhere
        write_json(target / PROVENANCE, facts)
    return _report(target, "registered")


def _open_work(target: Path, facts: dict[str, Any]) -> Path:
    """Return the folder of a fetch under way: one left by a killed process if it is of the same."""
    work = target.with_name(f".{target.name}.part")
    if work.exists() and not _has_request(work, facts["request"]):
        remove_folder(work)
    if not work.exists():
        write_json(work / PROVENANCE, facts)
    return work


def _has_request(work: Path, request: str) -> bool:
    try:
        return bool(_read_provenance(work)["request"] == request)
    except WorkspaceError:
        return False


def _check_room(plan: Plan, work: Path) -> None:
    """Refuse what cannot fit before a byte of it is asked for."""
    size, free = plan.preflight.size, shutil.disk_usage(work).free
    here = sum(path.stat().st_size for path in work.rglob("*") if path.is_file())
    if size is not None and size - here > free:
        raise SourceError(
            f"{plan.source.name} has {size:,} bytes, and {free:,} are free in {work.parent}; make "
            "room, or use a workspace on another disk"
        )


def _bring(plan: Plan, work: Path, pace: Pace, progress: Progress) -> dict[str, Any]:
    """Fill ``work/files``, list it, and return what provenance.json says of that."""
    from medkit.sources.transfer import transfer  # tenacity is slow to import

    ledger = Ledger(work / _LEDGER)
    try:
        transfer(plan, work, ledger, pace, progress)
    finally:
        ledger.close()
    # Archives, which are not here any more, and then what is here.
    lines = [{**line, "unpacked": True} for _, line in sorted(ledger.origins.items())]
    lines += [line for _, line in sorted(ledger.files.items())]
    with write_beside(work / FILES) as beside:
        beside.write_text("".join(f"{json.dumps(line, sort_keys=True)}\n" for line in lines))
    objects = [line for line in lines if "url" in line]
    return {
        "fetched": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": len(ledger.files),
        "size": sum(line["size"] for line in ledger.files.values()),
        "references": dict(sorted(Counter(line["reference"] for line in objects).items())),
        "refused": sum(len(line.get("refused", ())) for line in objects),
    }


def _finish(work: Path, target: Path, facts: dict[str, Any]) -> None:
    """Make a work that is complete a source; a kill in here leaves a work that is complete."""
    write_json(work / PROVENANCE, facts)
    for left in ("parts", "archives"):
        if (work / left).exists():
            shutil.rmtree(work / left)
    (work / _LEDGER).unlink(missing_ok=True)
    _sync_files(work)
    work.replace(target)
    sync(target.parent)


def _sync_files(folder: Path) -> None:
    """Return when all is on the disk: a sync of each file, or of everything, where there are many.

    For half a million files, one by one, it would take hours.
    """
    paths = [path for path in folder.rglob("*") if path.is_file()]
    if len(paths) > _FEW and hasattr(os, "sync"):
        os.sync()
        return
    for path in paths:
        sync(path)


def read_files(folder: Path) -> list[dict[str, Any]]:
    """Return what a fetched source is made of, archives that were unpacked first.

    Parameters
    ----------
    folder : Path
        ``raw/NAME``.

    Raises
    ------
    WorkspaceError
        If the list is missing or damaged.
    """
    try:
        with (folder / FILES).open(encoding="utf-8") as handle:
            return [json.loads(line) for line in handle]
    except (OSError, ValueError) as error:
        raise WorkspaceError(
            f"{folder / FILES} cannot be read ({error}); remove {folder} and fetch again"
        ) from None


def _verify(target: Path, progress: Progress) -> Fetched:
    expected = [line for line in read_files(target) if "unpacked" not in line]
    damaged = []
    with ThreadPoolExecutor(count_workers(None)) as pool:
        found = pool.map(lambda line: _is_right(target / "files" / line["path"], line), expected)
        for done, (line, right) in enumerate(zip(expected, found, strict=True), 1):
            if not right:
                damaged.append(line["path"])
            progress(done, len(expected), "files")
    if damaged:
        raise SourceError(
            f"{len(damaged)} of {len(expected)} files in {target} are not what was fetched, "
            f"the first {damaged[0]!r}; remove the folder and fetch again"
        )
    return _report(target, "already there")


def _is_right(path: Path, line: dict[str, Any]) -> bool:
    return (
        path.is_file() and path.stat().st_size == line["size"] and hash_file(path) == line["sha256"]
    )


def _read_provenance(folder: Path) -> dict[str, Any]:
    known = read_json(folder / PROVENANCE)
    if not isinstance(known, dict) or _KEYS - known.keys():
        raise WorkspaceError(f"{folder / PROVENANCE} is not the provenance of a source")
    return known


def _describe_source(folder: Path) -> FetchedSource:
    if not (folder / PROVENANCE).exists():
        return FetchedSource(folder.name, folder)
    known = _read_provenance(folder)
    return FetchedSource(
        name=folder.name,
        folder=Path(known["location"]) if known["location"] else folder / "files",
        title=known["title"],
        licence=known["licence"],
        person_regex=known["person_regex"] or None,
        raw=read_raw_rules(known.get("raw", []), str(folder / PROVENANCE)),
        sides=known["sides"],
    )


def _report(target: Path, status: str) -> Fetched:
    known = _read_provenance(target)
    in_place = known["location"] is not None
    return Fetched(
        source=_describe_source(target),
        status=status,
        files=None if in_place else known["files"],
        size=None if in_place else known["size"],
        references=known["references"],
        refused=known.get("refused", 0),
    )
