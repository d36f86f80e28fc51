"""``medkit plugins check``: whether a trainer keeps what the host relies on."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from medkit.cli.options import JsonOption
from medkit.cli.terminal import print_json, print_table, say, show_progress

if TYPE_CHECKING:
    from medkit.testing import Finding

_WORDS = {True: "yes", False: "NO", None: "-"}


def check_plugin(
    name: Annotated[str, typer.Argument(help="The trainer's name.")],
    options: Annotated[
        list[str] | None,
        typer.Option("-p", metavar="KEY=VALUE", help="An option of the trainer."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="CHECK", help="Run this check alone.")
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=1, help="That one fold may take.")
    ] = 120.0,
    as_json: JsonOption = False,
) -> None:
    """Check that a trainer keeps what the host, and its users, rely on; exit 1 where it does not.

    It trains on images that the command makes up, in a folder that is removed at the end.
    """
    from medkit.testing import check_trainer
    from medkit.training.params import split_options

    began = time.monotonic()
    with show_progress(f"checking {name}") as progress:
        findings = check_trainer(
            name,
            split_options(options or []),
            only=only or (),
            seconds=seconds,
            progress=progress,
        )
    spent, failed = time.monotonic() - began, [one for one in findings if one.passed is False]
    if as_json:
        rows = [asdict(finding) for finding in findings]
        print_json({"plugin": name, "ok": not failed, "findings": rows, "seconds": round(spent, 1)})
    else:
        _print_findings(name, findings, spent)
    if failed:
        raise typer.Exit(1)


def _print_findings(name: str, findings: list[Finding], seconds: float) -> None:
    counts = {word: 0 for word in (True, False, None)}
    for finding in findings:
        counts[finding.passed] += 1
    print_table(
        f"Checks of {name}",
        ("check", "passed", "what was found"),
        [(one.check, _WORDS[one.passed], one.message) for one in findings],
        note="What each promises, and how to mend it: docs/conformance.md",
    )
    say(
        f"{counts[True]} passed, {counts[False]} failed, {counts[None]} had nothing to check, "
        f"in {seconds:.0f} s"
    )
