"""Bringing a source into the workspace: whole or not at all, and found again.

``raw/NAME`` appears in one step when everything is in it, with ``provenance.json``. Until then
the work lies in ``raw/.NAME.part``, where a fetch that was killed goes on. A local folder is not
copied: its ``raw/NAME`` holds ``provenance.json`` alone, which says where the images are.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medkit.engine import Progress, silent
from medkit.errors import SourceError, UsageError, WorkspaceError
from medkit.sources import local
from medkit.sources.addresses import hide_query, name_of_url, stem_of
from medkit.sources.descriptor import (
    Descriptor,
    RawRule,
    SourceFile,
    read_raw_rules,
    write_raw_rules,
)
from medkit.sources.unpacking import detect_format, unpack
from medkit.workspace import (
    Workspace,
    hash_file,
    hash_json,
    read_json,
    remove_folder,
    write_json,
)

PROVENANCE = "provenance.json"
_STATED = ("title", "version", "licence", "citation", "homepage", "protocol", "person_regex")
_KEYS = {"name", *_STATED, "request", "location", "origins", "files"}


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
    """

    name: str
    folder: Path
    title: str = ""
    licence: str = ""
    person_regex: str | None = None
    raw: tuple[RawRule, ...] = ()


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
    origins : list of dict
        Each file that was brought: url, sha256 (of what came), size, and reference: whether that
        hash was known before (``"sha256"``) or not (``"none"``).
    """

    source: FetchedSource
    status: str
    files: int | None
    size: int | None
    origins: list[dict[str, Any]]


def list_sources(workspace: Workspace) -> list[FetchedSource]:
    """Return the sources of a workspace, by name; a half-finished fetch is none."""
    return [_describe_source(workspace.raw / name) for name in workspace.names("raw")]


def fetch(descriptor: Descriptor, workspace: Workspace, *, progress: Progress = silent) -> Fetched:
    """Bring a source into the workspace, or go on where a killed fetch was.

    What is there already is verified, file by file, against the hashes noted when it came.

    Raises
    ------
    UsageError
        If the name is taken by something else, or the folder overlaps the workspace.
    SourceError
        If it cannot be brought whole and right, or is there and damaged.
    """
    target = workspace.source(descriptor.name)
    facts = _gather_facts(descriptor)
    if target.exists():
        _check_same(target, facts)
    if not descriptor.files:
        folder = local.locate_folder(descriptor)
        return _register(target, facts | {"location": _place_outside(folder, workspace)})
    if target.exists():
        return _verify(target, progress)
    work = _open_work(target, facts, goes_on=all(file.sha256 for file in descriptor.files))
    facts |= _bring(descriptor, work, progress)
    _finish(work, target, facts)
    return _report(target, "fetched")


def _gather_facts(descriptor: Descriptor) -> dict[str, Any]:
    """Return what provenance.json says from the start."""
    stated = asdict(descriptor)
    files = [[file.sha256 or file.url, file.size, file.unpack] for file in descriptor.files]
    return {
        "name": descriptor.name,
        **{key: stated[key] for key in _STATED},
        "raw": write_raw_rules(descriptor.raw),
        # Equal for equal wishes; a hash, because an address can hold a secret.
        "request": hash_json([descriptor.protocol, descriptor.package, descriptor.path, files]),
        "location": None,
        "origins": [],
        "files": [],
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
        _finish(_open_work(target, facts, goes_on=False), target, facts)
    elif _read_provenance(target) == facts:
        return _report(target, "already there")
    else:  # a package that was installed anew, elsewhere
        write_json(target / PROVENANCE, facts)
    return _report(target, "registered")


def _open_work(target: Path, facts: dict[str, Any], *, goes_on: bool) -> Path:
    """Return the folder of a fetch under way: one left by a killed process if it is of the same.

    Without reference hashes nobody can tell whether what was left is what comes today.
    """
    work = target.with_name(f".{target.name}.part")
    if work.exists() and not (goes_on and _has_request(work, facts["request"])):
        remove_folder(work)
    for left in work.glob(f".{PROVENANCE}.*.part"):  # of a killed process, under its number
        left.unlink()
    write_json(work / PROVENANCE, facts)
    return work


def _has_request(work: Path, request: str) -> bool:
    try:
        return bool(_read_provenance(work)["request"] == request)
    except WorkspaceError:
        return False


def _finish(work: Path, target: Path, facts: dict[str, Any]) -> None:
    write_json(work / PROVENANCE, facts)
    work.replace(target)


def _bring(descriptor: Descriptor, work: Path, progress: Progress) -> dict[str, Any]:
    """Fill ``work/files`` and return what provenance.json says of it."""
    downloads, files = work / "downloads", work / "files"
    files.mkdir(exist_ok=True)
    _clear_strays(downloads, {name_of_url(file.url) for file in descriptor.files})
    is_local = descriptor.protocol == "local"
    origins, plain = [], []
    for file in descriptor.files:
        source = _TAKERS[descriptor.protocol](file, downloads, progress)
        origins.append(_describe_origin(file, source))
        if is_local or (file.unpack and detect_format(source)):
            place = files / stem_of(source.name)
            if not place.exists():
                unpack(source, place, progress=progress)
        else:
            plain.append(source)
    for source in plain:  # last: until then a rerun finds them where they were downloaded
        source.replace(files / source.name)
    if downloads.exists():
        shutil.rmtree(downloads)
    return {"origins": origins, "files": _list_files(files, progress)}


def _clear_strays(folder: Path, expected: set[str]) -> None:
    """Remove what killed downloads left under temporary names, each as large as it got."""
    for path in folder.glob("*"):
        if path.name not in expected:
            path.unlink()


def _download(file: SourceFile, folder: Path, progress: Progress) -> Path:
    from medkit.sources import https  # requests is slow to import, and few sources need it

    return https.download(file, folder, progress)


_TAKERS = {"local": local.take_archive, "https": _download}


def _describe_origin(file: SourceFile, source: Path) -> dict[str, Any]:
    return {
        "url": hide_query(file.url),
        "sha256": file.sha256 or hash_file(source),
        "size": source.stat().st_size,
        "reference": "sha256" if file.sha256 else "none",
    }


def _list_files(folder: Path, progress: Progress) -> list[dict[str, Any]]:
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    names = sorted(name for name, path in paths.items() if path.is_file())
    listed = []
    for name in names:
        path = paths[name]
        listed.append({"path": name, "size": path.stat().st_size, "sha256": hash_file(path)})
        progress(len(listed), len(names), "files")
    return listed


def _verify(target: Path, progress: Progress) -> Fetched:
    expected = _read_provenance(target)["files"]
    damaged = []
    for done, entry in enumerate(expected, 1):
        path = target / "files" / entry["path"]
        if not path.is_file() or hash_file(path) != entry["sha256"]:
            damaged.append(entry["path"])
        progress(done, len(expected), "files")
    if damaged:
        raise SourceError(
            f"{len(damaged)} of {len(expected)} files in {target} are not what was fetched, "
            f"the first {damaged[0]!r}; remove the folder and fetch again"
        )
    return _report(target, "already there")


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
    )


def _report(target: Path, status: str) -> Fetched:
    known = _read_provenance(target)
    in_place = known["location"] is not None
    return Fetched(
        source=_describe_source(target),
        status=status,
        files=None if in_place else len(known["files"]),
        size=None if in_place else sum(entry["size"] for entry in known["files"]),
        origins=known["origins"],
    )
