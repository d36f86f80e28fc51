"""Which features are kept, how much room they take, and throwing some away.

Features can always be computed again, so what is thrown away costs time and nothing else.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medkit.errors import UsageError, WorkspaceError
from medkit.training.features import FORMAT
from medkit.training.rowfiles import ARRAY, JOURNAL, count_rows
from medkit.workspace import read_json

# So much is kept after a run unless MEDKIT_FEATURES_BYTES says otherwise.
BOUND = "20GB"
_VARIABLE = "MEDKIT_FEATURES_BYTES"

_DAY = 86_400.0
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE | re.ASCII)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_ABOUT = ".json"
# The journal first: a kill then leaves rows that nothing names.
_SUFFIXES = (JOURNAL, ARRAY, _ABOUT)


@dataclass(frozen=True)
class FeatureStore:
    """The features of one extractor, kept under one key.

    Attributes
    ----------
    key : str
        Names the files.
    trainer : str
        What computed them; empty where an earlier version of medkit left them, and none reads them.
    layer, weights : str
        Of the network, where the trainer says so.
    view : dict
        Through which images are seen.
    images, bytes : int
        How many are there, and the room that they take.
    used : float
        When they were last used, in seconds since 1970.
    """

    key: str
    trainer: str
    layer: str
    weights: str
    view: dict[str, Any]
    images: int
    bytes: int
    used: float


def list_stores(folder: Path) -> list[FeatureStore]:
    """Return what a folder of features holds, the last used first."""
    keys = {path.stem for suffix in _SUFFIXES for path in folder.glob(f"*{suffix}")}
    stores = [_describe(folder / key) for key in keys]
    return sorted(stores, key=lambda store: (-store.used, store.key))


def choose_stores(
    stores: Sequence[FeatureStore],
    *,
    keys: Iterable[str] = (),
    older_than: float | None = None,
    keep: int | None = None,
) -> list[FeatureStore]:
    """Return what to prune: what any of these asks for, and what no version reads any more.

    Parameters
    ----------
    stores : sequence of FeatureStore
        As `list_stores` gives them.
    keys : iterable of str
        Keys, or enough of their beginning.
    older_than : float, optional
        Days since the last use.
    keep : int, optional
        Bytes that may stay, of those last used.

    Raises
    ------
    UsageError
        If a key names none of them, or several.
    """
    asked = {_find(stores, key).key for key in keys}
    before = -float("inf") if older_than is None else time.time() - older_than * _DAY
    left, chosen = float("inf") if keep is None else keep, []
    for store in stores:
        gone = not store.trainer or store.key in asked or store.used < before
        left -= 0 if gone else store.bytes
        if gone or left < 0:  # and so it is with all that were used before it
            chosen.append(store)
    return chosen


def remove_stores(folder: Path, stores: Iterable[FeatureStore]) -> None:
    """Remove features from a folder."""
    for store in stores:
        for suffix in _SUFFIXES:
            (folder / f"{store.key}{suffix}").unlink(missing_ok=True)


def bound_features(folder: Path, used: str) -> str:
    """Remove the features that were used least recently, beyond what may be kept.

    Parameters
    ----------
    folder : Path
        Of features.
    used : str
        The key of those that are in use: they stay, however many.

    Returns
    -------
    str
        What was removed, for the log; empty if nothing was.

    Raises
    ------
    UsageError
        If MEDKIT_FEATURES_BYTES is no size.
    """
    text = os.environ.get(_VARIABLE, BOUND)
    stores, most = list_stores(folder), parse_size(text)
    if sum(store.bytes for store in stores) <= most:
        return ""
    chosen = [store for store in choose_stores(stores, keep=most) if store.key != used]
    remove_stores(folder, chosen)
    freed = spell_size(sum(store.bytes for store in chosen))
    return (
        f"removed {freed} of other features, those that were used least recently: {text} of them "
        f"may be kept ({_VARIABLE})"
    )


def parse_size(text: str) -> int:
    """Return the bytes that a size means: ``500MB``, ``1.5 GB``, ``20GiB``, ``4096``.

    Raises
    ------
    UsageError
        If it is no size.
    """
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise UsageError(f"{text!r} is no size; give a number and kB, MB, GB or TB, such as 5GB")
    unit = 1024 if found[3] else 1000
    return int(float(found[1]) * unit ** _POWERS[found[2].lower()])


def spell_size(size: float) -> str:
    """Return a number of bytes as a person reads it."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


def _describe(base: Path) -> FeatureStore:
    stats = [path.stat() for path in map(base.with_suffix, _SUFFIXES) if path.exists()]
    origin = _read_origin(base.with_suffix(_ABOUT))
    spec = origin.get("spec", {})
    maker = spec.get("extractor") or f"{origin.get('plugin', '')} {origin.get('version', '')}"
    about = base.with_suffix(_ABOUT)
    return FeatureStore(
        key=base.name,
        trainer=str(maker).strip(),
        layer=str(spec.get("layer") or ""),
        weights=str(spec.get("weights") or ""),
        view=dict(spec.get("view", {})),
        images=count_rows(base) if origin else 0,
        bytes=sum(stat.st_size for stat in stats),
        used=about.stat().st_mtime if origin else max(stat.st_mtime for stat in stats),
    )


def _read_origin(about: Path) -> Mapping[str, Any]:
    """Return what features are of; empty if they are of an earlier version, or it was lost."""
    try:
        content = read_json(about)
        return dict(content["origin"]) if content["format"] == FORMAT else {}
    except (WorkspaceError, KeyError, TypeError, ValueError):
        return {}


def _find(stores: Sequence[FeatureStore], key: str) -> FeatureStore:
    found = [store for store in stores if store.key.startswith(key)]
    if len(found) != 1:
        known = ", ".join(store.key[:12] for store in stores) or "none"
        many = "several" if found else "no"
        raise UsageError(f"{key!r} is the beginning of {many} key of features; there are: {known}")
    return found[0]
