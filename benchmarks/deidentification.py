"""Promise: of identifiers planted in every place of a DICOM file, medkit leaves none.

Writes the files of tests/identifiers.py, de-identifies them with medkit and with each library that
is found in the Python given, as their own guides show it and with all that they offer to remove,
and searches what they write, byte for byte. Prints docs/deidentification.md's table: how many of
the planted texts are left, by place; whether files that refer to each other still do; whether the
pixels are the same; and what the file says of it (PatientIdentityRemoved, and the codes of the
method, which PS3.15 E.1.1 asks for).

    python -m venv others
    others/bin/pip install dicom-anonymizer deid dicognito dcm-anonymizer dcmanon \\
        grand-challenge-dicom-de-identifier
    python benchmarks/deidentification.py others/bin/python
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from identifiers import Planter, find_planted, make_pixels, write_codestream, write_planted

# Each gets a folder of files, and a folder to write to.
OTHERS = {
    "dicom-anonymizer": """
from dicomanonymizer import anonymize_dicom_file
from dicomanonymizer.simpledicomanonymizer import initialize_actions
for path in files:
    anonymize_dicom_file(
        str(path), str(out / path.name), delete_private_tags=True,
        base_rules_gen=lambda: initialize_actions("dicomfields_2026c"),
    )
""",
    "deid": """
from deid.dicom import replace_identifiers
replace_identifiers(
    dicom_files=[str(path) for path in files], save=True, overwrite=True,
    output_folder=str(out), remove_private=True,
)
""",
    "dicognito": """
import subprocess
command = [sys.executable, "-m", "dicognito", "--output-directory", out, source]
subprocess.run(command, check=True)
""",
    "dcm-anonymizer": """
import subprocess
tool = Path(sys.executable).with_name("dcm-anon")
subprocess.run([tool, source, out], check=True)
""",
    "dcmanon": """
from dcmanon import Anonymizer
anonymizer = Anonymizer()
for path in files:
    (out / path.name).write_bytes(anonymizer.anonymize(str(path)))
""",
    "grand-challenge-dicom-de-identifier": """
from grand_challenge_dicom_de_identifier.deidentifier import DicomDeidentifier
tool = DicomDeidentifier()
for path in files:
    tool.deidentify_file(path, output=out / path.name)
""",
}
_PREFACE = """
import sys
from pathlib import Path
source, out = map(Path, sys.argv[1:3])
files = sorted(source.rglob("*.dcm"))
"""
# Where a text was planted, in classes; the first that is in the place's name.
_CLASSES = {
    "preamble": "file",
    "file meta": "file",
    "after the pixel": "file",
    "trailing padding": "file",
    "JPEG": "codestream",
    "nested private": "private",
    "private": "private",
    "UID": "UIDs",
    "overlay": "graphics",
    "curve": "graphics",
    "icon": "graphics",
    "graphic": "graphics",
    "structured report": "sequences",
    "sequences deep": "sequences",
    "Sequence": "sequences",
    "date in a text": "texts and names",
    "Date": "dates",
}
_COLUMNS = (
    *("texts and names", "sequences", "UIDs", "dates", "private", "graphics", "file"),
    "codestream",
)


@dataclass
class Outcome:
    """What a tool left."""

    name: str
    left: Counter[str]
    pixels: str
    references: str
    flag: str
    codes: str


def main() -> None:
    """Print the table."""
    python = sys.argv[1] if len(sys.argv) > 1 else sys.executable
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        planter = write_files(folder / "tree")
        planted = Counter(classify(where) for where in planter.planted)
        outcomes = [judge("medkit", run_medkit(folder), planter)]
        for name, script in OTHERS.items():
            found = run_other(folder, python, name, script)
            if found:
                outcomes.append(judge(*found, planter))
    columns = [column for column in _COLUMNS if planted[column]]
    print("| left of |", " | ".join([*columns, "all"]), "| pixels | references | flag | codes |")
    print("|---" * (len(columns) + 6) + "|")
    print(
        "| planted |",
        " | ".join(str(planted[c]) for c in columns),
        f"| {planted.total()} | | | | |",
    )
    for one in sorted(outcomes, key=lambda one: one.left.total()):
        counts = [*(str(one.left[column]) for column in columns), str(one.left.total())]
        told = (one.pixels, one.references, one.flag, one.codes)
        print(f"| {one.name} |", " | ".join([*counts, *told]), "|")


def write_files(tree: Path) -> Planter:
    """Write the planted files: CT images of one study, and a JPEG."""
    planter = Planter()
    write_planted(tree / "tail" / "3.dcm", planter)
    comment = planter.text("comment of a JPEG").encode()
    write_codestream(tree / "jpeg" / "2.dcm", planter, comment)
    study, frame = planter.uid("StudyInstanceUID"), planter.uid("FrameOfReferenceUID")
    for number in range(2):
        write_planted(
            tree / "plain" / f"{number}.dcm", planter, tail=False,
            StudyInstanceUID=study, FrameOfReferenceUID=frame,
        )  # fmt: skip
    texts = [path.read_bytes() for path in tree.rglob("*.dcm")]
    lost = [
        place for place, text in planter.planted.items() if not any(text in one for one in texts)
    ]
    for place in lost:  # a later file planted another text in the same place
        del planter.planted[place]
    return planter


def classify(place: str) -> str:
    """Return the class of a place."""
    return next((kind for word, kind in _CLASSES.items() if word in place), "texts and names")


def run_medkit(folder: Path) -> Path:
    """De-identify, and return where the files are."""
    for command in (
        ["pack", folder / "tree", folder / "archive", "--deidentify", "-w", folder / "workspace"],
        ["unpack", folder / "archive", folder / "medkit"],
    ):
        subprocess.run([sys.executable, "-m", "medkit", *command], check=True, capture_output=True)
    return folder / "medkit"


def run_other(folder: Path, python: str, name: str, script: str) -> tuple[str, Path] | None:
    """Run another tool; return its name and version, and where its files are."""
    out = folder / name
    said = f"from importlib.metadata import version; print(version({name!r}))"
    found = subprocess.run([python, "-c", said], capture_output=True, text=True)
    if found.returncode:
        return None
    for part in sorted((folder / "tree").iterdir()):  # what it dies of costs it nothing else
        (out / part.name).mkdir(parents=True)
        command = [python, "-c", _PREFACE + script, part, out / part.name]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"{name}, {part.name}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
    return f"{name} {found.stdout.strip()}", out


def judge(name: str, out: Path, planter: Planter) -> Outcome:
    """Search what a tool wrote."""
    paths = [path for path in sorted(out.rglob("*")) if path.is_file() and path.suffix != ".json"]
    content = b"\n".join(path.read_bytes() for path in paths)
    left = Counter(classify(place) for place in find_planted(content, planter))
    print(f"{name}: {sorted(find_planted(content, planter))}", file=sys.stderr)
    headers = []
    for path in paths:
        try:
            headers.append(pydicom.dcmread(path))
        except pydicom.errors.InvalidDicomError:
            continue
    native = [one for one in headers if one.get("BitsAllocated") == 16 and "PixelData" in one]
    same = sum(np.array_equal(one.pixel_array, make_pixels()) for one in native)
    studies = Counter(
        (one.get("StudyInstanceUID"), one.get("FrameOfReferenceUID")) for one in native
    )
    flags = {str(one.get("PatientIdentityRemoved", "-")) for one in headers}
    codes = {len(one.get("DeidentificationMethodCodeSequence", ())) for one in headers}
    return Outcome(
        name,
        left,
        f"{same} of 3",
        "kept" if 2 in studies.values() else "lost",
        ", ".join(sorted(flags)),
        "yes" if codes and min(codes) else "no",
    )


if __name__ == "__main__":
    main()
