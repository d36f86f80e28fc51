"""``medkit doctor``: what works on this machine, and what does not and why."""

from __future__ import annotations

import typer

from medkit.cli.options import HERE, JsonOption, WorkspaceOption
from medkit.cli.terminal import print_json, print_table


def doctor(workspace: WorkspaceOption = HERE, as_json: JsonOption = False) -> None:
    """Say what works on this machine, and what does not and why."""
    from dataclasses import asdict

    from medkit.diagnosis import PROBLEM, diagnose
    from medkit.training.environment import choose_environment

    findings = list(diagnose(workspace, choose_environment("cpu").backend))
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        rows = [(finding.state, finding.topic, finding.detail) for finding in findings]
        print_table("This machine", ("", "what", "found"), rows)
    if any(finding.state == PROBLEM for finding in findings):
        raise typer.Exit(1)
