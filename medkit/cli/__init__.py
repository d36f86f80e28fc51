"""The command line: one module a verb; each parses, calls one function, and prints."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from medkit import __version__
from medkit.cli import (
    audit,
    catalog,
    compare,
    demo,
    doctor,
    evaluate,
    export,
    features,
    fetch,
    label,
    metrics,
    normalise,
    open,
    pack,
    plugins,
    predict,
    push,
    query,
    report,
    show,
    train,
    unpack,
    verify,
    weights,
)
from medkit.cli.terminal import explain
from medkit.errors import MedkitError

app = typer.Typer(
    name="medkit",
    help="From a pile of DICOM to a number you can trust.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for verb in (
    demo.demo,
    fetch.fetch,
    catalog.catalog,
    show.show,
    query.query,
    label.label,
    normalise.normalise,
    train.train,
    evaluate.evaluate,
    open.open_held_out,
    metrics.metrics,
    compare.compare,
    report.report,
    predict.predict,
    pack.pack,
    unpack.unpack,
    push.push,
    push.pull,
    verify.verify,
    doctor.doctor,
):
    name = "open" if verb is open.open_held_out else None  # a function of that name hides Python's
    app.command(name, cls=train.TrainCommand if verb is train.train else None)(verb)
app.command("normalize", hidden=True, help="The same as normalise.")(normalise.normalise)
app.add_typer(audit.app, name="audit")
app.add_typer(export.app, name="export")
app.add_typer(features.app, name="features")
app.add_typer(plugins.app, name="plugins")
app.add_typer(weights.app, name="weights")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"medkit {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """From a pile of DICOM to a number you can trust."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code: 0 done, 1 failed, 2 wrong usage."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        app(args=arguments, prog_name="medkit")
    except (MedkitError, OSError) as error:  # a disk that is full or may not be written, too
        if "--debug" in arguments:
            raise
        explain(str(error))
        sys.exit(getattr(error, "exit_code", 1))
