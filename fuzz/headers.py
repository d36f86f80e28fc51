"""Looks for files that the compiled reader crashes or hangs on, or reads unlike pydicom.

Guided by coverage: without numba, the kernel is Python that atheris sees into. The corpus is a
folder outside the repository; it is filled with the heads of real files and with files that
``tests/strategies.py`` draws. An input that fails is written to the folder and ends the run; made
small, it becomes a test in ``tests/test_reader_agreement.py``.

    NUMBA_DISABLE_JIT=1 python fuzz/headers.py CORPUS -max_total_time=1200 -timeout=10
    NUMBA_DISABLE_JIT=1 python fuzz/headers.py --drawn CORPUS2 -max_total_time=1200
    NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=FOLDER python fuzz/headers.py CORPUS -runs=0

The second way lets hypothesis build files out of the bytes that atheris changes. The third goes
through a corpus with compiled code that checks every index. All other options are libFuzzer's.
atheris leaks what comparisons of arrays give, some 50 KB an input: hence the high limit of memory.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import atheris
import numpy as np
from hypothesis import HealthCheck, given, settings

REPOSITORY = Path(__file__).parent.parent
sys.path[:0] = [str(REPOSITORY / "tests"), str(REPOSITORY / "benchmarks")]

import pydicom  # noqa: E402 - not to be instrumented


class Bytes(np.ndarray):
    """Bytes whose arithmetic is that of numba, which takes single ones for 64-bit integers."""

    def __getitem__(self, place: Any) -> Any:
        """Return one as an integer, several as they are."""
        found = super().__getitem__(place)
        octet = self.dtype == np.uint8 and not isinstance(found, np.ndarray)
        return int(found) if octet else found


def _take_integers(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        return function(*(_view(one) for one in arguments))

    return call


def _view(argument: Any) -> Any:
    octets = isinstance(argument, np.ndarray) and argument.dtype == np.uint8
    return argument.view(Bytes) if octets else argument


def _read_windows(
    root: int,
    names: Any,
    starts: Any,
    offsets: Any,
    data: Any,
    begins: Any,
    widths: Any,
    got: Any,
) -> None:
    """Do what `elements.read_windows` does with the system's functions."""
    for row, path in enumerate(bytes(names).split(b"\0")[: len(starts)]):
        handle = os.open(path, os.O_RDONLY, dir_fd=root)
        part = os.pread(handle, int(widths[row]), int(offsets[row]))
        os.close(handle)
        got[row] = len(part)
        data[begins[row] : begins[row] + len(part)] = np.frombuffer(part, np.uint8)


if os.environ.get("NUMBA_DISABLE_JIT"):
    with atheris.instrument_imports(include=["medkit.catalog"]):
        from medkit.catalog import cells, columns, elements

    for module in (cells, elements):
        for name, function in list(vars(module).items()):
            if getattr(function, "__module__", "") == module.__name__ and name[0] != "_":
                setattr(module, name, _take_integers(function))
    elements.read_windows = _read_windows
else:
    from medkit.catalog import columns

from strategies import dicom_files  # noqa: E402
from test_reader_agreement import agree, list_entries  # noqa: E402
from trees import find_folders  # noqa: E402

LARGEST = 16 * 2**10  # bytes of an input
WINDOWS = (256, columns.WINDOW)  # half of the headers are read in small parts
DRAWN = 500  # files that hypothesis draws for the corpus

# In memory, where there is such a folder: each input becomes a file.
PLACE = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))


def check(content: bytes) -> None:
    """Raise if the two readers do not agree on a file."""
    path = PLACE / "0.dcm"
    path.write_bytes(content)
    # What one input left in these must not decide over another.
    columns._convert.cache_clear()
    columns.WINDOW = WINDOWS[len(content) % 2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        agree(list_entries(PLACE, [path]))


@settings(database=None, deadline=None, suppress_health_check=[*HealthCheck])
@given(content=dicom_files())
def check_drawn(content: bytes) -> None:
    """Likewise, of a file that hypothesis draws."""
    check(content)


def list_seeds() -> Iterator[bytes]:
    """Yield real files without most of their pixels, and drawn ones."""
    for folder in find_folders():
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                yield from shrink(path)
    drawn: list[bytes] = []
    collect = settings(max_examples=DRAWN, database=None, derandomize=True)(
        given(dicom_files())(lambda content: drawn.append(content))
    )
    collect()
    yield from drawn


def shrink(path: Path) -> Iterator[bytes]:
    """Yield a real file's head, and the file with an image of one pixel."""
    content = path.read_bytes()
    yield content[:LARGEST]
    try:
        header = pydicom.dcmread(path)
        header.Rows = header.Columns = 1
        if "PixelData" in header and not header["PixelData"].is_undefined_length:
            frames = int(header.get("NumberOfFrames") or 1)
            length = header.SamplesPerPixel * header.BitsAllocated * frames // 8
            header.PixelData = bytes(length + length % 2)
        file = io.BytesIO()
        header.save_as(file)
    except Exception:  # some real files are broken on purpose
        return
    if file.tell() <= LARGEST:
        yield file.getvalue()


def fill(corpus: Path) -> None:
    """Write the seeds into a corpus that is new."""
    if corpus.exists():
        return
    corpus.mkdir(parents=True)
    for seed in list_seeds():
        (corpus / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)


def main() -> None:
    """Fuzz until told otherwise."""
    logging.disable(logging.CRITICAL)  # pydicom's, of every odd value
    drawn = "--drawn" in sys.argv
    options = [option for option in sys.argv if option != "--drawn"]
    folders = [option for option in options[1:] if not option.startswith("-")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for folder in folders[:1]:
            Path(folder).mkdir(parents=True, exist_ok=True) if drawn else fill(Path(folder))
    options += [
        f"-max_len={LARGEST}",
        "-len_control=0",
        "-rss_limit_mb=16384",
        f"-artifact_prefix={folders[0]}-" if folders else "",
    ]
    one_input = check_drawn.hypothesis.fuzz_one_input if drawn else check
    atheris.Setup([option for option in options if option], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
