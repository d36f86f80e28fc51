"""What a run was made from and with, and how to repeat it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from medkit.errors import MedkitError
from medkit.evaluation.evidence import Evidence
from medkit.evaluation.spelling import spell
from medkit.sources.fetching import PROVENANCE
from medkit.workspace import Workspace, hash_file, read_json

_LICENCE_FACTS = ("title", "version", "licence", "citation", "homepage")
NOT_STATED = "licence and citation are not stated"
_FILES = ("predictions.parquet", "metrics.json", "calibration.json", "domain.json")

Facts = list[tuple[str, Any]]


def trace(evidence: Evidence, sources: Mapping[str, str]) -> dict[str, Facts]:
    """Return groups of facts, as pairs of a term and its value, by which to repeat a run."""
    run = evidence.run
    return {
        "Images": [
            ("Set", run["set"]),
            ("Hash of the set", run["set_id"]),
            ("Recipe", spell(run["recipe"])),
            ("Catalog snapshot", run["catalog_snapshot"]),
            ("Label", run["label"]),
            ("Folds", f"{run['k']}, by person, seed {run['seed']}, key {run['folds_key']}"),
            ("Split", spell(run.get("split") or "folds of equal size, nothing held out")),
        ],
        "Sources": list(sources.items()) or [("Sources", f"not known: {evidence.no_set}")],
        "Method": [
            ("Trainer", f"{run['plugin']} of {run['distribution']} {run['version']}"),
            ("Options", spell(run["params"])),
            ("Features", spell(run.get("features") or "none")),
            ("Weights to start from", spell(run["weights"] or "the trainer names none")),
            ("Share cut for validation", run["validation_share"]),
            ("Seed", run["seed"]),
        ],
        "Machine": [
            ("Device", run["device"]),
            ("Threads", run["threads"]),
            ("Backend", run["backend"]),
            ("Platform", run["platform"]),
            ("Versions", spell(run["versions"])),
            ("Started", run["started"]),
            ("Seconds", run["seconds"]),
        ],
        "Files": [
            (f"SHA-256 of {name}", hash_file(evidence.folder / name))
            for name in _FILES
            if (evidence.folder / name).is_file()
        ],
    }


def describe_sources(evidence: Evidence, workspace: Workspace) -> dict[str, str]:
    """Return licence and citation of each source that the images are from."""
    if evidence.image_set is None:
        return {}
    names = sorted(evidence.image_set.table["source"].unique())
    return {name: _describe_licence(workspace, name) for name in names}


def _describe_licence(workspace: Workspace, source: str) -> str:
    try:
        stated = read_json(workspace.source(source) / PROVENANCE)
    except MedkitError:  # it was scanned where it lies, not fetched
        stated = {}
    facts = {name: stated[name] for name in _LICENCE_FACTS if stated.get(name)}
    return spell(facts) if facts else NOT_STATED


def spell_command(run: Mapping[str, Any]) -> str:
    """Return the command that made a run; one that says the same where it came from Python."""
    if run["command"]:
        return shlex.join(run["command"])
    words = ["medkit", "train", run["set"], "--plugin", run["plugin"], "--label", run["label"]]
    words += ["--folds", run["k"], "--seed", run["seed"], "--device", run["device"]]
    for name in ("positive", "separator"):
        words += [f"--{name}", run[name]] if run.get(name) else []
    for name, value in run["params"].items():
        if value is not None:
            words += ["-p", f"{name}={_spell_option(value)}"]
    return shlex.join(map(str, words))


def _spell_option(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def spell_installation(run: Mapping[str, Any]) -> str:
    """Return the command that installs the versions a run was made with."""
    others = {"python", "platform", run["distribution"]}
    pinned = {name: one for name, one in run["versions"].items() if name not in others and one}
    pinned |= {run["distribution"]: run["version"]}
    return shlex.join(["pip", "install", *(f"{name}=={one}" for name, one in pinned.items())])
