"""Measure: trainers on labelled folders, five folds by person, and what a split by image claims.

Takes persons in an order that follows from their ids until there are enough images, and walks the
road with them by the commands that a user would type. Inception has random weights, as a control:
pretrained ones need a download. Beside each number by person stands what the same trainer claims
of the same images when every image is taken for a person. Prints Markdown tables.

    python benchmarks/trainers.py [images] [folder ...]

A folder has ``labels.csv`` with the columns path, patient_id and label; by default they are those
in ``labelled`` of the folder that MEDKIT_TEST_DATA names: chest X-rays of D. Kermany, K. Zhang and
M. Goldbaum (Mendeley Data, CC BY 4.0), and the NLM's malaria cells (public).

With a network, this measures what pretrained weights add, on the same folds:

    medkit train SET --label finding --plugin inception -p weights=imagenet
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from medkit.evaluation.comparison import compare_runs
from medkit.evaluation.evidence import read_evidence
from medkit.workspace import Workspace

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"
LAYERS = ("mixed4", "mixed7", "mixed10")
# The first is what the differences are from.
TRAINERS = {
    "softmax": ["softmax"],
    "cnn": ["cnn"],
    **{
        f"inception, random, {layer}": ["inception", "-p", "weights=none", "-p", f"layer={layer}"]
        for layer in LAYERS
    },
}
COLUMNS = ("trainer", "AUC", "balanced accuracy", "difference", "by image")


def copy_part(source: Path, target: Path, images: int) -> None:
    """Copy the images of whole persons, and two tables of labels: by person and by image."""
    with (source / "labels.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    rows.sort(key=lambda row: (hashlib.sha256(row["patient_id"].encode()).digest(), row["path"]))
    last = rows[min(images, len(rows)) - 1]["patient_id"]
    chosen = [row for i, row in enumerate(rows) if i < images or row["patient_id"] == last]
    for row in chosen:
        (target / row["path"]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / row["path"], target / row["path"])
    write_labels(target / "persons.csv", chosen)
    write_labels(target / "images.csv", [{**row, "patient_id": row["path"]} for row in chosen])


def write_labels(path: Path, rows: Iterable[dict[str, str]]) -> None:
    """Write a table of labels."""
    with path.open("w", newline="") as table:
        writer = csv.DictWriter(table, ["path", "patient_id", "label"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def medkit(workspace: Workspace, *arguments: str) -> dict[str, Any]:
    """Run a command and return what it printed as JSON."""
    place = ["-w", str(workspace.root), "--json"]
    command = [sys.executable, "-m", "medkit", *arguments, *place]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return dict(json.loads(done.stdout))


def prepare(workspace: Workspace, part: Path, labels: str) -> None:
    """Walk the road up to training."""
    medkit(workspace, "catalog", str(part))
    medkit(workspace, "label", "finding", "--csv", str(part / labels))
    medkit(workspace, "normalise", "part")


def train(workspace: Workspace, name: str, *options: str) -> dict[str, Any]:
    """Cross-validate a trainer and return its metrics."""
    task = ["train", "part", "--label", "finding", "--device", "cpu", "--name", name, "--plugin"]
    (run,) = medkit(workspace, *task, *options)["runs"]
    return dict(run["metrics"])


def measure(source: Path, images: int) -> None:
    """Print the table of a folder."""
    with tempfile.TemporaryDirectory() as temporary:
        part, persons, each = (Path(temporary) / name for name in ("part", "persons", "images"))
        honest, naive = Workspace(persons), Workspace(each)
        copy_part(source, part, images)
        prepare(honest, part, "persons.csv")
        prepare(naive, part, "images.csv")
        rows, first = [], None
        for number, (name, options) in enumerate(TRAINERS.items()):
            metrics = train(honest, f"run{number}", *options)
            # The same pixels: their features need no second pass.
            shutil.copytree(honest.features, naive.features, dirs_exist_ok=True)
            claimed = train(naive, f"run{number}", *options)
            evidence = read_evidence(honest.run(f"run{number}"), honest)
            first = first or evidence
            compared = compare_runs([first, evidence]) if evidence is not first else None
            difference = compared["rows"][1]["difference"] if compared else None
            rows.append(describe(name, metrics, difference, claimed))
        print(f"\n{source.name}: {metrics['images']} images of {metrics['persons']} persons\n")
        for line in (COLUMNS, ("---",) * len(COLUMNS), *rows):
            print(f"| {' | '.join(line)} |")


def describe(
    name: str,
    metrics: dict[str, Any],
    difference: dict[str, float] | None,
    claimed: dict[str, Any],
) -> tuple[str, ...]:
    """Return a line of the table."""
    values = [spell(metrics["metrics"][measure]) for measure in ("auc", "balanced_accuracy")]
    apart = spell(difference, "+.3f") if difference else ""
    claims = [claimed["metrics"][measure]["value"] for measure in ("auc", "balanced_accuracy")]
    return name, *values, apart, " / ".join(f"{claim:.3f}" for claim in claims)


def spell(entry: dict[str, float], form: str = ".3f") -> str:
    """Return a number with its interval."""
    value, low, high = (format(entry[key], form) for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def main(images: str = "1500", *folders: str) -> None:
    """Print a table for each folder."""
    data = Path(os.environ.get("MEDKIT_TEST_DATA", SHARED)) / "labelled"
    places = [Path(folder) for folder in folders] or [
        data / name for name in ("kermany_cxr", "malaria_cells")
    ]
    for place in places:
        if (place / "labels.csv").exists():
            measure(place, int(images))
        else:
            print(f"not measured: there is no labels.csv in {place}; give a folder that has one")


if __name__ == "__main__":
    main(*sys.argv[1:])
