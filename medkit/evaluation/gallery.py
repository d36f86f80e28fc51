"""Looking at a set before anything is trained on it: a contact sheet, and a page of its values.

The page is one file that asks for nothing. Text from files reaches it through the escaping of the
report's templates alone, and the sheet as letters that are drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medkit.engine import Progress, silent
from medkit.errors import UsageError
from medkit.evaluation.distributions import describe_group
from medkit.evaluation.inventory import count_parts, find_concerns, spell_value
from medkit.evaluation.pages import render
from medkit.evaluation.sheets import (
    HIDDEN,
    Label,
    Section,
    Thumbnail,
    choose_images,
    draw_sheet,
    draw_thumbnails,
    encode_thumbnail,
)
from medkit.evaluation.subjects import NO_LABEL, NO_PERSON, Look, Names, Subject, prepare_subject
from medkit.evaluation.survey import (
    MOST_GROUPS,
    Group,
    Outlier,
    Survey,
    find_outliers,
    group_images,
    survey_images,
)
from medkit.workspace import Workspace, write_beside

Integers = npt.NDArray[np.int64]

PAGE, SHEET = "look.html", "sheet.png"
STRETCHED = (
    "stretched for the eye between its 0.5th and 99.5th percentile, for want of a window or a range"
)
_MOST_OUTLIERS = 12
_MOST_OF_A_PERSON = 2


@dataclass(frozen=True)
class Gallery:
    """What was made.

    Attributes
    ----------
    page : Path
    sheets : list of Path
        The one of chosen images first.
    images, shown, measured : int
        Images looked at, on the first sheet, and in the histograms.
    outliers : list of int
        Numbers of images that are far from their group, the farthest first.
    """

    page: Path
    sheets: list[Path]
    images: int
    shown: int
    measured: int
    outliers: list[int]

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON."""
        return asdict(self) | {
            "page": str(self.page),
            "sheets": [str(sheet) for sheet in self.sheets],
        }


def look_at(
    workspace: Workspace,
    name: str,
    look: Look,
    folder: Path | None = None,
    progress: Progress = silent,
) -> Gallery:
    """Make a contact sheet and a page of a set; equal sets and looks give equal bytes.

    Parameters
    ----------
    workspace : Workspace
        Holds the set, and the catalog if there is a label or are pseudonyms.
    name : str
        Of the set.
    look : Look
    folder : Path, optional
        Where to write; by default ``looks/NAME`` of the workspace.

    Raises
    ------
    UsageError
        If no image is there to be looked at, the label or the condition is none, or the folder
        lies in a set, where `verify` would find a file that does not belong.
    ImageSetError
        If the set is missing or damaged.
    """
    target = _choose_folder(workspace, name, folder)
    subject = prepare_subject(workspace, name, look)
    groups = group_images(subject.table)
    survey = survey_images(subject.images, groups, subject.lines(), subject.sample(), progress)
    outliers = find_outliers(groups, survey.measures)
    chosen = choose_images(subject.classes, subject.persons, look.count)
    picked = _pick_outliers(outliers, subject)
    seen = np.union1d(chosen, [one.position for one in picked]).astype(np.int64)
    thumbnails = draw_thumbnails(subject.images, seen, look.window)
    sections = _arrange(subject, chosen, thumbnails)
    context = _describe(subject, groups, survey, sections)
    context["outliers"] = {
        "images": len(outliers),
        "shown": [_describe_outlier(one, groups, subject, thumbnails) for one in picked],
    }
    context["concerns"] = find_concerns(
        subject.table, groups, subject.image_set.manifest["counts"], len(outliers)
    )
    sheets = [_write_sheet(target / SHEET, subject, sections, len(chosen))]
    sheets += _write_all(target, subject, progress) if look.every else ()
    if folder is None:
        _remove_others(target, sheets)
    with write_beside(target / PAGE) as beside:
        beside.write_text(render("gallery.html.j2", **context), encoding="utf-8", newline="\n")
    return Gallery(
        page=target / PAGE,
        sheets=sheets,
        images=len(subject.images),
        shown=len(chosen),
        measured=int(survey.measures["mean"].notna().sum()),
        outliers=[int(subject.table["image"].iloc[one.position]) for one in outliers],
    )


def _choose_folder(workspace: Workspace, name: str, folder: Path | None) -> Path:
    if folder is None:
        return workspace.look(name)
    if folder.resolve().is_relative_to((workspace.root / "sets").resolve()):
        raise UsageError(f"{folder} lies among the sets, which hold nothing else; choose another")
    if folder.exists() and not folder.is_dir():
        raise UsageError(
            f"{folder} is a file; --output names the folder for the sheet and the page"
        )
    return folder


def _arrange(subject: Subject, chosen: Integers, thumbnails: dict[int, Thumbnail]) -> list[Section]:
    """Put images under the headings of their classes; those without one come last."""
    sizes = Counter(subject.classes)
    by_class: dict[str, list[int]] = {}
    for position in chosen:
        by_class.setdefault(subject.classes[position], []).append(int(position))
    return [
        Section(
            f"{name} · {len(positions):,} of {sizes[name]:,} image{'s' * (sizes[name] > 1)}",
            [(subject.label(position), thumbnails[position]) for position in positions],
        )
        for name, positions in sorted(
            by_class.items(), key=lambda item: (item[0] == NO_LABEL, item[0])
        )
    ]


def _write_sheet(path: Path, subject: Subject, sections: list[Section], shown: int) -> Path:
    height, width = subject.image_set.size
    of = f"{shown:,} of {len(subject.images):,} images"
    notes = [f"{of}, {width} × {height} pixels each · {subject.spell()}"]
    if any(thumbnail.stretched for one in sections for _, thumbnail in one.cells):
        notes.append(f"~ {STRETCHED}")
    with write_beside(path) as beside:
        draw_sheet(beside, f"Set {subject.image_set.name}", notes, sections)
    return path


def _write_all(target: Path, subject: Subject, progress: Progress) -> Iterator[Path]:
    """Write sheets of all images, class by class, those of a person side by side."""
    order = pd.DataFrame(
        {
            "last": [name == NO_LABEL for name in subject.classes],
            "group": subject.classes,
            "person": subject.persons,
        }
    ).sort_values(["last", "group", "person"], kind="stable")
    count = subject.look.count
    for number, start in enumerate(range(0, len(order), count), 1):
        chosen = order.index[start : start + count].to_numpy(np.int64)
        thumbnails = draw_thumbnails(subject.images, chosen, subject.look.window)
        sections = _arrange(subject, chosen, thumbnails)
        yield _write_sheet(target / f"sheet-{number:04}.png", subject, sections, len(chosen))
        progress(number, -(-len(order) // count), "sheets")


def _remove_others(target: Path, sheets: Sequence[Path]) -> None:
    """Remove sheets of an earlier look: beside these they would be taken for theirs."""
    for path in target.glob("sheet-*.png"):
        if path not in sheets:
            path.unlink()


def _pick_outliers(outliers: Sequence[Outlier], subject: Subject) -> list[Outlier]:
    """Return the farthest, two of a person at most."""
    picked: list[Outlier] = []
    of_person: dict[str, int] = {}
    for one in outliers:
        person = subject.persons[one.position]
        if len(picked) < _MOST_OUTLIERS and of_person.get(person, 0) < _MOST_OF_A_PERSON:
            picked.append(one)
            of_person[person] = of_person.get(person, 0) + (person != NO_PERSON)
    return picked


def _describe(
    subject: Subject, groups: Sequence[Group], survey: Survey, sections: Sequence[Section]
) -> dict[str, Any]:
    """Return what the template shows."""
    table, manifest, look = subject.table, subject.image_set.manifest, subject.look
    classes = None if look.label is None else subject.classes
    parts = _hide_sources(count_parts(table, classes), subject.names)
    drawn = [
        describe_group(group, number, survey, table, classes)
        for number, group in enumerate(groups[:MOST_GROUPS])
    ]
    return {
        "name": subject.image_set.name,
        "id": subject.image_set.id,
        "images": len(table),
        "of": len(subject.image_set.table),
        "persons": table["split_group"].nunique(),
        "measured": int(survey.measures["mean"].notna().sum()),
        "size": subject.image_set.size,
        "look": subject.spell(),
        "label": look.label,
        "anonymised": look.anonymised,
        "sections": [
            {
                "heading": section.heading,
                "cells": [_describe_cell(label, one) for label, one in section.cells],
            }
            for section in sections
        ],
        "stretched": STRETCHED,
        "groups": drawn,
        "more_groups": len(groups) - len(drawn),
        "more_images": sum(len(group.rows) for group in groups[len(drawn) :]),
        "same": {
            title: part["rows"][0]["value"] for title, part in parts.items() if _is_same(part)
        },
        "parts": {title: part for title, part in parts.items() if not _is_same(part)},
        "refused": manifest["counts"]["refused"],
        "left_out": manifest["left_out"],
        "recipe": _spell_recipe(manifest["recipe"], look.anonymised),
        "snapshot": manifest.get("catalog_snapshot"),
    }


def _spell_recipe(recipe: Mapping[str, Any], anonymised: bool) -> list[tuple[str, str]]:
    """Return names and values; a condition may hold what pseudonyms hide."""
    told = {key: value for key, value in recipe.items() if not (anonymised and key == "where")}
    return [
        (key, ", ".join(map(str, value)) if isinstance(value, list) else str(value))
        for key, value in told.items()
        if value not in (None, [])
    ]


def _is_same(part: Mapping[str, Any]) -> bool:
    return len(part["rows"]) == 1


def _describe_cell(label: Label, thumbnail: Thumbnail) -> dict[str, Any]:
    return {
        "label": label,
        "picture": None if thumbnail.pixels is None else encode_thumbnail(thumbnail.pixels),
        "hidden": HIDDEN,
        "stretched": thumbnail.stretched,
    }


def _hide_sources(parts: dict[str, Any], names: Names) -> dict[str, Any]:
    for row in parts["Source"]["rows"]:
        row["value"] = names.show(row["value"])
    return parts


def _describe_outlier(
    one: Outlier, groups: Sequence[Group], subject: Subject, thumbnails: dict[int, Thumbnail]
) -> dict[str, Any]:
    row = subject.table.iloc[one.position]
    return _describe_cell(subject.label(one.position), thumbnails[one.position]) | {
        "what": one.what,
        "value": spell_value(one.value),
        "median": spell_value(one.median),
        "units": groups[one.group].units,
        "path": None if subject.look.anonymised else row["path"],
        "frame": int(row["frame"]),
    }
