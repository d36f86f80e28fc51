"""Archives: size and speed of `medkit pack` and `unpack` against what people use instead.

The grey images of 8 to 16 bits that ship with pydicom and pydicom-data, and those of
``MEDKIT_TEST_DATA`` where it is, are written out as a file a frame, each picture once, with the
header that it had. Some copies of that tree, each with UIDs of its own, are packed and unpacked by
medkit and by its peers, on one core and on two. medkit's time has the proof in it that every file
comes back. Peers that are not installed are left out; what runs in a process a file
(dcmcjpls, gdcmconv) pays for that, so that only its bytes are to be compared.

    python benchmarks/archive.py [copies] [rounds]
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom

from medkit.archive.pack import pack
from medkit.archive.unpack import unpack
from medkit.testing import make_uid

FRAMES = 400  # of one file
EXPLICIT = "1.2.840.10008.1.2.1"
LOSSY = {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81",
         "1.2.840.10008.1.2.4.91"}  # fmt: skip
KINDS = {"CT", "MR", "CR", "DX", "US", "NM", "PT", "XA", "MG"}


def find_files() -> Iterator[Path]:
    """Yield files that may be images."""
    folders = [Path(pydicom.__file__).parent / "data" / "test_files"]
    if found := importlib.util.find_spec("data_store"):
        folders.append(Path(found.submodule_search_locations[0]) / "data")
    shared = os.environ.get("MEDKIT_TEST_DATA", Path(__file__).parents[2] / "shared" / "data")
    folders.append(Path(shared) / "dicom")
    for folder in folders:
        yield from (path for path in sorted(folder.rglob("*")) if path.is_file())


def read_frames() -> Iterator[tuple[pydicom.Dataset, np.ndarray]]:
    """Yield header and stored values of each frame, each picture once."""
    seen = set()
    for path in find_files():
        try:
            header = pydicom.dcmread(path)
            usable = (
                header.SamplesPerPixel == 1
                and header.BitsAllocated in (8, 16)
                and header.get("Modality") in KINDS
                and header.file_meta.TransferSyntaxUID not in LOSSY
            )
            frames = header.pixel_array if usable else []
        except Exception:  # files that are broken on purpose are among them
            continue
        frames = np.reshape(frames, (-1, header.Rows, header.Columns)) if usable else []
        for frame in frames[:FRAMES]:
            digest = hashlib.sha256(frame.tobytes()).digest()
            if digest not in seen:
                seen.add(digest)
                yield header, frame


def write_tree(folder: Path, copies: int) -> tuple[int, int]:
    """Write the tree, and return how many files and bytes one copy has."""
    frames = [*read_frames()]
    size = 0
    for copy in range(copies):
        for number, (header, frame) in enumerate(frames):
            one = pydicom.Dataset()
            one.update({
                element.tag: element for element in header
                if element.tag not in (0x52009229, 0x52009230, 0x00280008, 0x7FE00010)
                and element.tag.group >= 8 and element.tag.group != 0x6000
            })  # fmt: skip
            one.SOPClassUID = header.get("SOPClassUID") or "1.2.840.10008.5.1.4.1.1.7"
            one.SOPInstanceUID = make_uid(f"{copy} {number}")
            one.SeriesInstanceUID = make_uid(f"{copy} {header.get('SeriesInstanceUID')}")
            one.InstanceNumber = number
            one.file_meta = pydicom.dataset.FileMetaDataset()
            one.file_meta.TransferSyntaxUID = pydicom.uid.UID(EXPLICIT)
            little = frame.astype(frame.dtype.newbyteorder("<"))
            one.PixelData = little.tobytes() + b"\0" * (little.nbytes % 2)
            one["PixelData"].VR = "OW" if header.BitsAllocated > 8 else "OB"
            series = folder / f"copy{copy}" / one.SeriesInstanceUID[-12:]
            series.mkdir(parents=True, exist_ok=True)
            path = series / f"{number:05d}.dcm"
            pydicom.dcmwrite(
                path, one, enforce_file_format=True, implicit_vr=False, little_endian=True
            )
            size += path.stat().st_size
    return len(frames), size // copies


def spend() -> float:
    """Return the seconds of processors that this process and its children have had."""
    own, others = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return sum((own.ru_utime, own.ru_stime, others.ru_utime, others.ru_stime))


def sum_sizes(place: Path) -> int:
    """Return the bytes of a file, or of all in a folder."""
    files = place.rglob("*") if place.is_dir() else [place]
    return sum(path.stat().st_size for path in files if path.is_file())


def measure(work: Callable[[], object]) -> tuple[float, float]:
    """Return seconds on the wall and of processors."""
    wall, processor = time.monotonic(), spend()
    work()
    return time.monotonic() - wall, spend() - processor


def clean(place: Path) -> Path:
    """Return a place at which nothing is."""
    shutil.rmtree(place, ignore_errors=True)
    place.unlink(missing_ok=True)
    return place


def run(command: str, *places: Path) -> None:
    """Run a pipe of the shell; places are $0, $1, ..."""
    subprocess.run(
        ["bash", "-o", "pipefail", "-c", command, *map(str, places)],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def run_each(command: list[str], tree: Path, out: Path) -> None:
    """Run a command for each file, with source and target behind it; what fails is copied."""
    for path in tree.rglob("*.dcm"):
        target = out / path.relative_to(tree)
        target.parent.mkdir(parents=True, exist_ok=True)
        done = subprocess.run([*command, path, target], capture_output=True)
        if done.returncode:
            shutil.copy(path, target)


def medkit_ways(cores: int) -> dict[str, tuple[Callable[..., object], Callable[..., object]]]:
    """Return how medkit packs and unpacks."""
    workers = 0 if cores == 1 else cores

    def way(codec: str, effort: str) -> tuple[Callable[..., object], Callable[..., object]]:
        return (
            lambda tree, out: pack(tree, out, codec=codec, effort=effort, workers=workers),
            lambda out, back: unpack(out, back, workers=workers),
        )

    return {
        "medkit, jpeg-ls (default)": way("jpeg-ls", "normal"),
        "medkit, htj2k": way("htj2k", "normal"),
        "medkit, jpegxl fast": way("jpegxl", "fast"),
        "medkit, jpegxl": way("jpegxl", "normal"),
        "medkit, jpeg2000": way("jpeg2000", "normal"),
        "medkit, jpegxl max": way("jpegxl", "max"),
    }


def encode_frames(name: str, tree: Path, out: Path) -> None:
    """Compress pixels alone, and see that they come back: no proven packing can be faster."""
    with out.open("wb") as sink:
        for path in sorted(tree.rglob("*.dcm")):
            pixels = pydicom.dcmread(path).pixel_array
            pixels = pixels.view(f"u{pixels.itemsize}")
            packed = getattr(imagecodecs, f"{name}_encode")(pixels)
            assert np.array_equal(getattr(imagecodecs, f"{name}_decode")(packed), pixels)
            sink.write(len(packed).to_bytes(4, "little") + packed)


def decode_frames(name: str, out: Path, back: Path) -> None:
    """Decode what `encode_frames` wrote, and write the pixels."""
    with out.open("rb") as source, back.open("wb") as sink:
        while length := source.read(4):
            packed = source.read(int.from_bytes(length, "little"))
            sink.write(getattr(imagecodecs, f"{name}_decode")(packed).data)


def peer_ways(cores: int) -> dict[str, tuple[str, Callable[..., object], Callable[..., object]]]:
    """Return the peers: what must be installed, how they pack, and how they unpack."""
    return {
        "tar, zstd -3": (
            "zstd",
            lambda tree, out: run(f'tar -C "$0" -c . | zstd -3 -T{cores} -o "$1"', tree, out),
            lambda out, back: run('mkdir "$1" && zstd -dc "$0" | tar -C "$1" -x', out, back),
        ),
        "zip -6": (
            "zip",
            lambda tree, out: run('cd "$0" && zip -q -r -6 - . > "$1"', tree, out),
            lambda out, back: run('unzip -q "$0" -d "$1"', out, back),
        ),
        "7z": (
            "7z",
            lambda tree, out: run(f'7z a -mmt={cores} "$1.7z" "$0" && mv "$1.7z" "$1"', tree, out),
            lambda out, back: run('7z x "-o$1" "$0"', out, back),
        ),
        "dcmcjpls": (
            "dcmcjpls",
            lambda tree, out: run_each(["dcmcjpls"], tree, out),
            lambda out, back: run_each(["dcmdjpls"], out, back),
        ),
        "gdcmconv --jpegls": (
            "gdcmconv",
            lambda tree, out: run_each(["gdcmconv", "--jpegls"], tree, out),
            lambda out, back: run_each(["gdcmconv", "--raw"], out, back),
        ),
        "gdcmconv --j2k": (
            "gdcmconv",
            lambda tree, out: run_each(["gdcmconv", "--j2k"], tree, out),
            lambda out, back: run_each(["gdcmconv", "--raw"], out, back),
        ),
        **{
            f"{library} in process, pixels alone, with the proof": (
                "zstd", partial(encode_frames, name), partial(decode_frames, name)
            )
            for library, name in (("CharLS", "jpegls"), ("OpenJPH", "htj2k"))
        },
    }  # fmt: skip


def main(copies: int = 3, rounds: int = 1) -> None:
    """Print a table for one core, and one for two."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files, size = write_tree(folder / "tree", copies)
        whole = size * copies
        print(f"{files} frames, {size / 1e6:.1f} MB; {copies} copies of them\n")
        available = sorted(os.sched_getaffinity(0))
        for cores in [1, 2] if len(available) > 1 else [1]:
            os.sched_setaffinity(0, available[:cores])
            print(f"\n{cores} core{'s' * (cores > 1)}\n")
            print("| | bytes | ratio | of tar+zstd | packed, MB/s | unpacked, MB/s |")
            print("|---|---|---|---|---|---|")
            ways = {
                name: (pack, unpack)
                for name, (tool, pack, unpack) in peer_ways(cores).items()
                if shutil.which(tool)
            } | medkit_ways(cores)
            first = 0
            for way, (there, back_again) in ways.items():
                if cores > 1 and ("max" in way or "conv" in way or "dcm" in way):
                    continue
                tree = folder / "tree" / "copy0" if "max" in way else folder / "tree"
                share = size if "max" in way else whole
                found = []
                for _ in range(rounds):
                    out, back = clean(folder / "out"), clean(folder / "back")
                    packed = measure(lambda: there(tree, out))  # noqa: B023 - called at once
                    unpacked = measure(lambda: back_again(out, back))  # noqa: B023
                    found.append((*packed, *unpacked))
                there_wall, there_cpu, back_wall, back_cpu = map(
                    statistics.median, zip(*found, strict=True)
                )
                bytes_ = sum_sizes(out) * (whole / share)
                first = first or bytes_
                print(
                    f"| {way} | {bytes_:,.0f} | {whole / bytes_:.2f} | {bytes_ / first:.3f} | "
                    f"{share / there_wall / 1e6:.0f} ({share / max(there_cpu, 1e-9) / 1e6:.0f}) | "
                    f"{share / max(back_wall, 1e-9) / 1e6:.0f} "
                    f"({share / max(back_cpu, 1e-9) / 1e6:.0f}) |",
                    flush=True,
                )
        print("\nIn brackets: a second of processor, which other work on the machine changes less.")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
