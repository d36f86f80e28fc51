"""What is done to a fitted model and to features, in the child: their rows asked for in other ways.

Each examination notes what it measured, and judges nothing: that is for `medkit.testing.checks`.
"""

from __future__ import annotations

import hashlib
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Note = Callable[..., None]
Values = npt.NDArray[Any]

# Images of the two sizes at which memory is measured. Of the second so many as take some seconds.
FEW, MANY, MOST = 256, 1280, 2304
_SECONDS = 4.0
_BATCH = 128  # of which the host asks for features


def fingerprint(part: Any) -> dict[str, str]:
    """Return a hash of everything that a trainer is given and could change, by its name."""
    images = getattr(part, "images", part)
    found = {name: getattr(part, name, None) for name in ("labels", "persons", "weights")}
    found["features"] = images.features
    found |= {f"column {name}": column.to_numpy() for name, column in images.table.items()}
    return {name: _hash(value) for name, value in found.items() if value is not None}


def measure(first: Any, second: Any) -> float | None:
    """Return the largest difference between two arrays; None where their shapes differ."""
    one, other = np.asarray(first), np.asarray(second)
    if one.shape != other.shape or one.dtype.kind not in "fiu":
        return None
    if not one.size:
        return 0.0
    return float(np.abs(one.astype(np.float64) - other.astype(np.float64)).max())


def ask_in_other_ways(of: str, ask: Callable[[Any], Any], images: Any, note: Note) -> None:
    """Note how rows differ where an image is asked for alone, in another order, among others.

    Differences are in units of the rows' own spread, so that they mean the same of features and of
    probabilities.
    """
    whole = np.asarray(ask(images))
    odd, back = np.arange(1, len(images), 2), np.arange(len(images))[::-1]
    for name, rows in (("alone", [0]), ("half", odd), ("backwards", back)):
        with _noting_errors(of, name, note):
            some = np.asarray(ask(images.take(rows)))
            note(
                "asked-otherwise",
                of=of,
                how=name,
                rows=len(rows),
                shape=some.shape,
                whole=whole.shape,
                difference=measure(whole[rows], some),
                spread=float(np.std(whole.astype(np.float64))) if whole.size else 0.0,
            )


def _examine_model(model: Any, images: Any, note: Note) -> None:
    ask_in_other_ways("predictions", model.predict_proba, images, note)
    if hasattr(model, "explain"):
        with _noting_errors("maps", "explain", note):
            maps = np.asarray(model.explain(images))
            finite = maps.dtype.kind in "fiu" and bool(np.isfinite(maps).all())
            note("explained", shape=maps.shape, images=len(images), finite=finite)


def _weigh_model(model: Any, images: Any, note: Note) -> None:
    def predict(count: int) -> None:
        model.predict_proba(_repeat(images, count))

    _weigh(predict, images, note)


def _weigh_features(ask: Callable[[Any], Any], images: Any, note: Note) -> None:
    def extract(count: int) -> None:
        many = _repeat(images, count)
        for start in range(0, count, _BATCH):
            ask(many.take(np.arange(start, min(start + _BATCH, count))))

    _weigh(extract, images, note)


def _weigh(work: Callable[[int], None], images: Any, note: Note) -> None:
    """Note the peak of memory for few images and for many."""
    work(FEW)  # libraries allocate, and compile, the first time
    began = time.monotonic()
    few = _find_peak(work, FEW)
    pace = (time.monotonic() - began) / FEW
    count = int(np.clip(_SECONDS / max(pace, 1e-9), MANY, MOST))
    many = _find_peak(work, count)
    height, width = images.source.size
    note("weighed", few=FEW, many=count, peak_few=few, peak_many=many, image=height * width * 4)


def _find_peak(work: Callable[[int], None], count: int) -> int | None:
    """Return the bytes of memory that this process took at most meanwhile; None if nobody says."""
    with suppress(OSError):  # elsewhere the peak is of the whole life so far, which only grows
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # proc(5): resets VmHWM
    work(count)
    return read_peak()


def read_peak() -> int | None:
    """Return the peak of this process's memory in bytes; None where the system does not say."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def _repeat(images: Any, count: int) -> Any:
    return images.take(np.resize(np.arange(len(images)), count))


@contextmanager
def _noting_errors(of: str, how: str, note: Note) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever a trainer raises is noted, and the rest is still asked
        traceback.print_exc()
        note("error", of=of, how=how, error=f"{type(error).__name__}: {error}")


def _hash(value: Any) -> str:
    array = np.asarray(value)
    # Of objects the bytes are addresses.
    content = repr(array.tolist()).encode() if array.dtype.kind == "O" else array.tobytes()
    return hashlib.sha256(content).hexdigest()


# What `Orders.examine` names, for a model and for features.
TASKS: Mapping[str, Mapping[str, Callable[[Any, Any, Note], None]]] = {
    "model": {"rows": _examine_model, "memory": _weigh_model},
    "features": {"rows": partial(ask_in_other_ways, "features"), "memory": _weigh_features},
}
