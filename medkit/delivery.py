"""A folder that is handed to others: whole or not at all, known again, and never a lost file.

It appears in one step when everything is in it. Until then the work lies beside it, in
``.NAME.part/content``. A description in JSON says what it was made from and ``SHA256SUMS`` what
belongs to it, so that the same one is known again and a file that somebody added is not thrown
away.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medkit import workspace
from medkit.errors import UsageError, WorkspaceError

CONTENT = "content"
SUMS = "SHA256SUMS"

_REPLACED = "replaced"


def name_work(folder: Path) -> Path:
    """Return the folder beside this one in which it is made."""
    return folder.with_name(f".{folder.name}.part")


def find_standing(
    folder: Path,
    description: str,
    facts: Mapping[str, Any],
    circumstances: Collection[str],
    replace: bool,
) -> dict[str, Any] | None:
    """Return what the same delivery says that is there already; None where there is room for it.

    Parameters
    ----------
    folder : Path
        Where the delivery is to lie.
    description : str
        The name of its description.
    facts : mapping
        What it is made from; ``format`` and ``form`` are among it.
    circumstances : collection of str
        Names that may differ between two that are the same all the same.
    replace : bool
        Another one is to be replaced.

    Raises
    ------
    UsageError
        If the folder holds another delivery that is not to be replaced, or anything else at all.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    found = _read_description(folder / description, facts["format"])
    if found is None:
        raise UsageError(
            f"{folder} holds something that medkit did not export; give another --output, or "
            "empty it yourself"
        )
    lost, foreign = _compare_files(folder, description)
    if replace:
        if foreign:
            raise UsageError(
                f"{folder} holds {foreign[0]!r}, which is no part of the export and would be "
                "lost; take it away, or give another --output"
            )
        return None
    asked = {name: value for name, value in facts.items() if name not in circumstances}
    other = [name for name, value in asked.items() if found.get(name) != value]
    if other:
        raise UsageError(
            f"{folder} holds another export: it differs in {', '.join(other)}; make it anew with "
            "--replace, or give another --output"
        )
    if lost:
        raise UsageError(
            f"{folder} lacks {len(lost)} files of the export, such as {lost[0]!r}; make it anew "
            "with --replace"
        )
    shutil.rmtree(name_work(folder), ignore_errors=True)  # a kill can leave it
    return found


@contextmanager
def write_part(target: Path) -> Iterator[Path]:
    """Yield a path for a file or a folder of a delivery; when it is whole it takes its place."""
    beside = target.with_name(f".{target.name}.part")
    if beside.is_dir():  # left by a kill
        shutil.rmtree(beside)
    beside.unlink(missing_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    yield beside
    workspace.move_into_place(beside, target)


def write_sums(content: Path, description: str) -> list[int]:
    """Write the SHA-256 of every file as sha256sum does, and return their sizes."""
    own = {SUMS, description}
    files = {
        path.relative_to(content).as_posix(): path
        for path in content.rglob("*")
        # A name that begins with a dot is a part that a kill left, and that is yet to be written.
        if path.is_file() and path.name not in own and not path.name.startswith(".")
    }
    lines = [f"{workspace.hash_file(files[name])}  {name}\n" for name in sorted(files)]
    with write_part(content / SUMS) as beside:
        beside.write_bytes("".join(lines).encode())
    return [path.stat().st_size for path in [*files.values(), content / SUMS]]


def put_in_place(work: Path, folder: Path) -> None:
    """Move the content to its place; what it replaces goes with the work folder."""
    if folder.exists():
        shutil.rmtree(work / _REPLACED, ignore_errors=True)  # a kill can leave it
        folder.replace(work / _REPLACED)
    (work / CONTENT).replace(folder)
    workspace.sync(folder.parent)
    shutil.rmtree(work)


def _read_description(path: Path, version: int) -> dict[str, Any] | None:
    try:
        found = workspace.read_json(path)
    except (WorkspaceError, OSError):
        return None
    known = isinstance(found, dict) and found.get("format") == version and "form" in found
    return found if known else None


def _compare_files(folder: Path, description: str) -> tuple[list[str], list[str]]:
    """Return the files of a delivery that are no longer in its folder, and those that are none."""
    sums = folder / SUMS
    lines = sums.read_text(encoding="utf-8").splitlines() if sums.exists() else []
    own = {line[66:] for line in lines} | {SUMS, description}
    found = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }
    return sorted(own - found), sorted(found - own)
