"""``medkit pack``: a study tree as few large files, lossless, with a proof of the way back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medkit.cli.options import HERE, EngineOption, JsonOption, WorkersOption, WorkspaceOption
from medkit.cli.terminal import print_json, print_table, say, show_progress
from medkit.errors import UsageError

if TYPE_CHECKING:
    from medkit.archive.deidentification import Rules
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
    "codec-died": "the codec died over it or one of its neighbours",
    "strange-header": "a header that strays from the standard",
    "document": "a report, document or drawing, which holds sentences",
    "private-class": "of a class that only its maker knows",
    "burned-in": "text in its pixels, as it says itself",
    "burned-in-unknown": "maybe text in its pixels",
    "byte-order": "big-endian words that readers do not agree on",
    "codestream": "a codestream of a kind that is not looked into",
    "identifier-left": "something that was removed stands in it elsewhere",
    "pixels-changed": "its pixels would not be the same",
    "link": "a link",
    "no-plain-file": "a device, a pipe or the like",
    "unreadable": "not readable",
}

CodecOption = Annotated[
    str,
    typer.Option(
        help="jpeg-ls (small; read by dcmtk, pydicom and most), htj2k (fast), jpeg2000, or jpegxl "
        "(smallest; read by medkit only)."
    ),
]
EffortOption = Annotated[
    str, typer.Option(help="fast, normal or max; only jpegxl knows a difference.")
]
DeidentifyOption = Annotated[
    bool,
    typer.Option(
        "--deidentify",
        help="Take out what tells whom images are of, by the basic profile of DICOM PS3.15; other "
        "files are left out. What is unpacked is then not what was packed.",
    ),
]
KeepOption = Annotated[
    list[str] | None,
    typer.Option(
        help="With --deidentify, keep also: characteristics (age, sex, weight), device, "
        "institution, dates (as they are, else they are shifted), uids, or burned-in (images that "
        "may have text in their pixels). Give it again for more."
    ),
]


def pack(
    tree: Annotated[Path, typer.Argument(help="The folder to pack; it is never touched.")],
    out: Annotated[Path, typer.Argument(help="A new folder for the archive.")],
    codec: CodecOption = "jpeg-ls",
    effort: EffortOption = "normal",
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
    deidentify: DeidentifyOption = False,
    keep: KeepOption = None,
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

    if deidentify and names:
        raise UsageError("--names gives files their old names back, which --deidentify takes away")
    rules = load_rules(workspace, out, deidentify, keep)
    with show_progress(f"pack {out.name}") as progress:
        summary = make(
            tree,
            out,
            codec=codec,
            effort=effort,
            shard_size=shard_size << 20,
            only=select(workspace, tree, where) if where else None,
            originals=read_names(names) if names else None,
            replace_other=replace,
            rules=rules,
            engine=engine,
            workers=workers,
            progress=progress,
        )
    _print(out, summary, as_json)
    if rules and not as_json:
        say_who(rules)
    raise typer.Exit(1 if "unreadable" in summary.left_out else 0)


def load_rules(
    workspace: Path, archive: Path, deidentify: bool, keep: list[str] | None
) -> Rules | None:
    """Return how files are de-identified, if they are."""
    if keep and not deidentify:
        raise UsageError("--keep says what --deidentify is to keep; give both, or none")
    if not deidentify:
        return None
    from medkit.archive.deidentification import Rules

    return Rules.load(workspace, archive, keep or [])


def say_who(rules: Rules) -> None:
    """Say what returns, and where it stands who is who."""
    say(
        "unpack returns the images as they were de-identified, not the original files; who is who "
        f"stands in {rules.map.path}, which stays here"
    )


def select(workspace: Path, tree: Path, where: str) -> set[str]:
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
    print_reasons("kept as they are, because", summary.reasons)
    print_reasons("left out, because", summary.left_out)


def print_reasons(title: str, counts: dict[str, int]) -> None:
    """Print how many files have which reason, if any has."""
    if counts:
        rows = [(count, _WHY.get(code, code)) for code, count in sorted(counts.items())]
        print_table(f"{sum(counts.values()):,} {title}", ("files", "reason"), rows)
