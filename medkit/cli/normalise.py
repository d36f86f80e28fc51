"""``medkit normalise``: make a set of images from the catalog."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from medkit.cli.options import HERE, EngineOption, JsonOption, WorkersOption, WorkspaceOption
from medkit.cli.terminal import print_json, print_table, say, show_progress
from medkit.workspace import Workspace

if TYPE_CHECKING:
    from medkit.images.normalisation import Summary


def normalise(
    name: Annotated[str, typer.Argument(help="What to call the set.")],
    workspace: WorkspaceOption = HERE,
    size: Annotated[int, typer.Option(help="Rows and columns of every image.")] = 299,
    geometry: Annotated[
        str,
        typer.Option(
            help="letterbox (all of the image, in its physical aspect), stretch, crop, or mm."
        ),
    ] = "letterbox",
    mm: Annotated[
        float | None, typer.Option(help="Millimetres a pixel, with --geometry mm.")
    ] = None,
    filter: Annotated[
        str,
        typer.Option(help="bilinear (antialiased), two-tap (not), or nearest (for label maps)."),
    ] = "bilinear",
    where: Annotated[
        str | None,
        typer.Option(
            help="SQL condition on the catalog's view 'images', such as \"Modality = 'CT'\"; "
            "it narrows what would be taken without it."
        ),
    ] = None,
    include: Annotated[
        str,
        typer.Option(
            help="What not to leave out: localizer, secondary-capture, slide; "
            "several, separated by commas."
        ),
    ] = "",
    slices: Annotated[
        str,
        typer.Option(
            help="Which slices of each volume: all; every:K, such as every:4; middle; middle:N, "
            "the N around it; or mip, one image that shows the greatest value along the volume."
        ),
    ] = "all",
    plane: Annotated[
        str,
        typer.Option(
            help="stored (slices as they were taken), or axial, coronal or sagittal: volumes are "
            "resampled and cut along that plane, and --slices chooses among the cuts."
        ),
    ] = "stored",
    replace: Annotated[
        bool, typer.Option("--replace", help="Make the set anew, whatever it holds now.")
    ] = False,
    append: Annotated[
        bool,
        typer.Option(
            "--append",
            help="Add to the set what the catalog has more now; what is in it stays as it is.",
        ),
    ] = False,
    engine: EngineOption = "local",
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a set of images, all of one size, at full bit depth.

    Run it again after a break: it goes on where it was. Every frame that is selected lands in the
    set or is refused by name. When the catalog has grown, --append lets the set grow with it.
    """
    from medkit.catalog.store import Catalog
    from medkit.images.normalisation import Recipe
    from medkit.images.normalisation import normalise as make

    included = tuple(reason.strip() for reason in include.split(",") if reason.strip())
    recipe = Recipe((size, size), geometry, filter, mm, where, included, slices, plane)
    home = Workspace(workspace)
    folder = home.set(name)
    with home.lock(), show_progress(f"normalise {name}") as progress:
        summary = make(
            Catalog.open(home.catalog),
            folder,
            recipe,
            engine=engine,
            workers=workers,
            progress=progress,
            replace=replace,
            append=append,
        )
    _print(name, summary, as_json)


def _print(name: str, summary: Summary, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        print_json({"set": name} | asdict(summary))
        return
    if not summary.built:
        say(f"{name} is there already, made by the same recipe from the same frames")
    elif summary.added < summary.landed:
        say(f"{name} has {summary.added:,} image{'s' * (summary.added != 1)} more")
    images = "" if summary.planned == summary.selected else f", for {summary.planned:,} images"
    print_table(
        f"{summary.selected:,} frames selected{images}",
        ("images", "what became of them"),
        [
            (summary.landed, "landed"),
            *((count, f"refused: {code}") for code, count in summary.refused.items()),
        ],
        note="each refused image is named in the set's refused.parquet" if summary.refused else "",
    )
    if summary.left_out:
        print_table(
            f"{sum(summary.left_out.values()):,} left out",
            ("frames", "reason"),
            [(count, reason) for reason, count in summary.left_out.items()],
        )
