"""Whether a set is, byte for byte, what was written: asked before anything is learned from it."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from medkit.engine import Progress, silent
from medkit.errors import ImageSetError
from medkit.images.imageset import Fault, ImageSet, verify
from medkit.workspace import hash_file


def check_set(image_set: ImageSet, progress: Progress = silent) -> None:
    """Read every byte of a set, in threads, and return if all are as its manifest says.

    Always anew: a disk that fails, or a file that is copied over, tells nobody.

    Raises
    ------
    ImageSetError
        If one is not; it names the image, or the file where it is in no image's pixels.
    """
    entries = sorted(image_set.manifest["files"].items())
    paths = [path for path, _ in entries]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        found = threads.map(_hash, [image_set.folder / path for path in paths])
        for done, (digest, (path, entry)) in enumerate(zip(found, entries, strict=True), 1):
            if digest != entry["sha256"]:
                threads.shutdown(cancel_futures=True)
                raise ImageSetError(_describe(image_set, path))
            progress(done, len(entries), "files of the set checked")


def _hash(path: Path) -> str | None:
    try:
        return hash_file(path)
    except OSError:  # `verify` says what is wrong with it
        return None


def _describe(image_set: ImageSet, path: str) -> str:
    """Say what is wrong with a set in which at least this file is."""
    known = image_set.manifest["files"]
    # A file too many changes nothing that is read.
    faults = [fault for fault in verify(image_set.folder) if fault.file in known]
    first = next((fault for fault in faults if fault.image is not None), None)
    first = first or next(iter(faults), Fault(path, None, "read otherwise a moment ago"))
    where = first.file if first.image is None else f"image {first.image} in {first.file}"
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    name = image_set.name
    return (
        f"the set {name!r} is damaged, and nothing is computed from it: {where}: {first.detail}"
        f"{more}; 'medkit verify {name}' lists all, and 'medkit normalise {name} --replace' makes "
        "it again"
    )
