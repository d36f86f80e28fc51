"""A set of images with several findings each, drawn so that each can be seen by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from faketrainer import run_here

from medkit.testing import make_uid, write_dicom

NAMES = ("Effusion", "Mass", "Nodule")
_SIDE = 32
# Where each finding is drawn: a bright corner of its own.
_PLACES = {"Effusion": (24, 4), "Mass": (4, 24), "Nodule": (4, 4)}


def draw_findings(persons: int, per_person: int, seed: int = 0) -> list[tuple[str, int, set[str]]]:
    """Return a person, a number and findings for each image."""
    random = np.random.default_rng(seed)
    drawn = []
    for person in range(persons):
        has = {
            name
            for name, share in zip(NAMES, (0.5, 0.35, 0.25), strict=True)
            if random.random() < share
        }
        for number in range(per_person):
            kept = {name for name in sorted(has) if random.random() < 0.85}
            drawn.append((f"P{person:03d}", number, kept))
    return drawn


def make_findings(folder: Path, persons: int = 40, per_person: int = 2) -> Path:
    """Return a workspace with a set ``set``, and labels.

    ``findings`` has texts such as ``Mass|Nodule``, and ``No Finding``, as one column; each of
    `NAMES` is also a label of 1, 0 and, of ``Nodule``, here and there -1.
    """
    random = np.random.default_rng(1)
    joined, columns = ["path,findings"], ["path," + ",".join(NAMES)]
    for place, (person, number, has) in enumerate(draw_findings(persons, per_person)):
        pixels = random.normal(100, 25, (_SIDE, _SIDE))
        for name in has:
            row, column = _PLACES[name]
            pixels[row : row + 6, column : column + 6] += 60
        path = folder / "images" / person / f"{number}.dcm"
        write_dicom(
            path,
            pixels.clip(0, 255).astype(np.uint8),
            PatientID=person,
            Modality="CR",
            StudyInstanceUID=make_uid(f"study {person}"),
            SeriesInstanceUID=make_uid(f"series {person}"),
            SOPInstanceUID=make_uid(f"instance {person} {number}"),
            InstanceNumber=number + 1,
        )
        where = f"{person}/{number}.dcm"
        joined.append(f"{where},{'|'.join(sorted(has)) or 'No Finding'}")
        answers = [("1" if name in has else "0") for name in NAMES]
        if place % 9 == 0:
            answers[2] = "-1"
        columns.append(f"{where},{','.join(answers)}")
    (folder / "joined.csv").write_text("\n".join(joined) + "\n")
    (folder / "columns.csv").write_text("\n".join(columns) + "\n")
    for command in (
        ["catalog", str(folder / "images"), "--workers", "0"],
        ["label", "findings", "--csv", str(folder / "joined.csv")],
        ["label", ",".join(NAMES), "--csv", str(folder / "columns.csv")],
        ["normalise", "set", "--size", "32", "--workers", "0"],
    ):
        run_here([*command, "-w", str(folder / "workspace")])
    return folder / "workspace"
