"""``medkit pack``: a study tree as few large files, lossless, with a proof of the way back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medkit.cli.options import HERE, EngineOption, JsonOption, WorkersOption, WorkspaceOption
from medkit.cli.terminal import print_json, print_table, say, show_progress
from medkit.errors import UsageError

if TYPE_CHECKING:
    from medkit.archive.pack import Summary

_WHY = {  # in the words of people
    "not-dicom": "no DICOM file",
    "compressed-already": "compressed already",
    "no-pixels": "no pixel data",
    "bits": "1, 32 or 64 bits a sample, or floats",
    "photometric": "colours that codecs would change",
    "high-bits": "something in bits that are not stored",
    "odd-header": "a header that strays from the standard",
    "odd-pixels": "pixel data of another length than the header says",
    "frame-count": "a number of frames that is none",
    "not-smaller": "not smaller when recompressed",
    "not-restored": "not restored exactly by the codec",
    "codec-died": "the codec died over one of its neighbours",
    "link": "a link",
    "no-plain-file": "a device, a pipe or the like",
    "unreadable": "not readable",
}


def pack(
    tree: Annotated[Path, typer.Argument(help="The folder to pack; it is never touched.")],
    out: Annotated[Path, typer.Argument(help="A new folder for the archive.")],
    codec: Annotated[
        str,
        typer.Option(
            help="jpeg-ls (small; read by dcmtk, pydicom and most), htj2k (fast), jpeg2000, or "
            "jpegxl (smallest; read by medkit only)."
        ),
    ] = "jpeg-ls",
    effort: Annotated[
        str, typer.Option(help="fast, normal or max; only jpegxl knows a difference.")
    ] = "normal",
    shard_size: Annotated[int, typer.Option(min=1, help="MiB that a shard has at most.")] = 1024,
    where: Annotated[
        str | None,
        typer.Option(
            help="SQL condition on the catalog's view 'images', such as \"Modality = 'CT'\": pack "
            "only files that it is true of. The workspace's catalog must have scanned TREE."
        ),
    ] = None,
    names: Annotated[
        Path | None,
        typer.Option(help="The .names.json that unpack wrote: give files their old names back."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Make the archive anew, whatever it holds now.")
    ] = False,
    workspace: WorkspaceOption = HERE,
    engine: EngineOption = "local",
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Pack a study tree into few large files, without losing a bit.

    DICOM files stay DICOM files, with losslessly compressed pixels; every file is unpacked and
    compared with the original before it is kept. Run it again after a break: it goes on where it
    was. Leaves with 1 if a file could not be read.
    """
    from medkit.archive.names import read_names
    from medkit.archive.pack import pack as make

    with show_progress(f"pack {out.name}") as progress:
        summary = make(
            tree,
            out,
            codec=codec,
            effort=effort,
            shard_size=shard_size << 20,
            only=_select(workspace, tree, where) if where else None,
            originals=read_names(names) if names else None,
            replace_other=replace,
            engine=engine,
            workers=workers,
            progress=progress,
        )
    _print(out, summary, as_json)
    raise typer.Exit(1 if "unreadable" in summary.left_out else 0)


def _select(workspace: Path, tree: Path, where: str) -> set[str]:
    """Return the files of the tree, by their path, that a condition on the catalog is true of."""
    from medkit.catalog.store import Catalog
    from medkit.sources.trees import normalise_root
    from medkit.workspace import Workspace

    found = Catalog.open(Workspace(workspace).catalog).select(where)
    root = normalise_root(tree)
    paths = set(found.loc[found["root"] == root, "path"])
    if not paths:
        raise UsageError(
            f"no file of {tree} fits {where!r} in the catalog of {workspace}; scan the folder "
            "with 'medkit catalog', or give another condition"
        )
    return paths


def _print(out: Path, summary: Summary, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        print_json(asdict(summary))
        return
    if not summary.made:
        say(f"{out} is there already, made of the same files by the same options")
    ratio = summary.size / summary.packed if summary.packed else 1
    print_table(
        f"{summary.files:,} files, {summary.size:,} bytes, are {summary.packed:,}: a ratio of "
        f"{ratio:.2f}",
        ("files", "form"),
        [(count, form) for form, count in sorted(summary.forms.items())],
    )
    for title, counts in (
        ("kept as they are, because", summary.reasons),
        ("left out, because", summary.left_out),
    ):
        if counts:
            rows = [(count, _WHY.get(code, code)) for code, count in sorted(counts.items())]
            print_table(f"{sum(counts.values()):,} {title}", ("files", "reason"), rows)
