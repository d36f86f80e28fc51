"""Measure: the three trainers on a part of a labelled folder, five folds by person, CPU.

Takes persons in an order that follows from their ids until there are enough images, and walks the
road with them by the commands that a user would type. Inception has random weights, as a control:
pretrained ones need a download. Prints each number with its interval.

    python benchmarks/trainers.py [folder] [images]

The folder has ``labels.csv`` with the columns path, patient_id and label; by default it is
``labelled/kermany_cxr`` in the folder that MEDKIT_TEST_DATA names (chest X-rays of D. Kermany,
K. Zhang and M. Goldbaum, Mendeley Data, CC BY 4.0).
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
import time
from pathlib import Path
from typing import Any

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"
TRAINERS = {"softmax": [], "cnn": [], "inception": ["-p", "weights=none"]}


def copy_part(source: Path, target: Path, images: int) -> None:
    """Copy the images of whole persons, and their labels."""
    with (source / "labels.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    rows.sort(key=lambda row: (hashlib.sha256(row["patient_id"].encode()).digest(), row["path"]))
    last = rows[images - 1]["patient_id"]
    chosen = [row for i, row in enumerate(rows) if i < images or row["patient_id"] == last]
    for row in chosen:
        (target / row["path"]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / row["path"], target / row["path"])
    with (target / "labels.csv").open("w", newline="") as table:
        writer = csv.DictWriter(table, ["path", "patient_id", "label"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(chosen)


def medkit(*arguments: str, workspace: Path) -> dict[str, Any]:
    """Run a command and return what it printed as JSON."""
    command = [sys.executable, "-m", "medkit", *arguments, "-w", str(workspace), "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return dict(json.loads(done.stdout))


def main(folder: str = "", images: str = "700") -> None:
    """Print AUC and balanced accuracy of each trainer, with intervals and seconds."""
    data = Path(os.environ.get("MEDKIT_TEST_DATA", SHARED))
    source = Path(folder) if folder else data / "labelled" / "kermany_cxr"
    if not (source / "labels.csv").exists():
        print(f"not measured: there is no labels.csv in {source}; give a folder that has one")
        return
    with tempfile.TemporaryDirectory() as temporary:
        part, workspace = Path(temporary) / "part", Path(temporary) / "workspace"
        copy_part(source, part, int(images))
        medkit("catalog", str(part), workspace=workspace)
        medkit("label", "finding", "--csv", str(part / "labels.csv"), workspace=workspace)
        medkit("normalise", "part", workspace=workspace)
        for trainer, options in TRAINERS.items():
            began = time.perf_counter()
            task = ["train", "part", "--label", "finding", "--plugin", trainer, *options]
            (run,) = medkit(*task, "--device", "cpu", workspace=workspace)["runs"]
            show(trainer, run["metrics"], time.perf_counter() - began)


def show(trainer: str, metrics: dict[str, Any], seconds: float) -> None:
    """Print one line for a run."""
    values = [
        f"{name} {entry['value']:.3f} ({entry['low']:.3f} to {entry['high']:.3f})"
        for name in ("auc", "balanced_accuracy")
        for entry in [metrics["metrics"][name]]
    ]
    cohort = f"{metrics['images']} images of {metrics['persons']} persons"
    print(f"{trainer:9} {cohort}: {', '.join(values)}, {seconds:.0f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
