"""The trainers of tests/broken as an installed distribution: each module is one, by its name."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "broken"
# These two keep every promise; the others break one, or what follows from one.
GOOD = ("reference", "featured")
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.py")))


def install(site: Path) -> list[str]:
    """Write the metadata that pip would, and return the folders in which to look for modules."""
    about = site / "broken_trainers-1.0.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: broken-trainers\nVersion: 1.0.0\nSummary: Made up.\n"
    )
    points = "".join(f"{name} = {name}\n" for name in NAMES)
    (about / "entry_points.txt").write_text(f"[medkit.trainers.v1]\n{points}")
    return [str(site), str(FOLDER)]
