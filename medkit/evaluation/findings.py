"""What the audit of a run's folds found, laid out: leaks, near duplicates and shortcuts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medkit.errors import ImageSetError
from medkit.evaluation.evidence import Evidence
from medkit.evaluation.pictures import draw_picture, encode

_MOST_PAIRS = 6
_OF_A_LABEL = 3  # fields that are shown of each of several labels
_LOOKS = {
    "border": "Border of the images alone",
    "small": "Images made so small that no detail is left",
}


def describe_findings(evidence: Evidence) -> dict[str, Any]:
    """Return what a report shows of the audit; what was not looked for is None."""
    audit = evidence.audit
    near, shortcuts = audit.get("near"), audit.get("shortcuts")
    pairs = (near or {}).get("pairs") or []
    shown = _OF_A_LABEL if "by_label" in (shortcuts or {}) else None
    return {
        "exact": [*(audit.get("exact") or [])],
        "listed": [*(audit.get("listed") or [])],
        "near": None if near is None else near.get("count", len(pairs)),
        "pairs": [_show_pair(pair, evidence) for pair in pairs[:_MOST_PAIRS]],
        "shortcuts": None if shortcuts is None else _list_shortcuts(shortcuts),
        "strongest": [
            {**strong, "label": one.get("label", "")}
            for one in _list_labels(shortcuts or {})
            for strong in ((one.get("fields") or {}).get("strongest") or [])[:shown]
        ],
        "several": "by_label" in (shortcuts or {}),
        "verdict": (shortcuts or {}).get("verdict"),
        "held_out": evidence.run.get("held_out"),
        "openings": [
            {"day": one.opened[:10], "runs": [run["run"] for run in one.runs]}
            for one in evidence.openings
        ],
    }


def _list_labels(shortcuts: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what was found of each of several labels, or of the one there is."""
    return shortcuts.get("by_label") or [shortcuts]


def _list_shortcuts(shortcuts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each thing that was tried."""
    rows = []
    for one in _list_labels(shortcuts):
        about = {"label": one.get("label", "")}
        if fields := one.get("fields"):
            rows.append({"title": "All that headers say, without any image", **fields, **about})
        for look in one.get("pixels") or []:
            rows.append({"title": _LOOKS.get(look["view"], look["view"]), **look, **about})
    return rows


def _show_pair(pair: Mapping[str, Any], evidence: Evidence) -> dict[str, Any]:
    pictures = [_draw(int(image), evidence) for image in pair["images"]]
    sides = [
        {name: _pick(pair, names, place) for name, names in _SIDES.items()}
        | {"picture": pictures[place]}
        for place in (0, 1)
    ]
    return {"sides": sides, "how": pair.get("how"), "distance": pair.get("distance")}


_SIDES = {"fold": "folds", "person": "persons", "label": "labels", "path": "paths"}


def _pick(pair: Mapping[str, Any], names: str, place: int) -> Any:
    values = pair.get(names) or [None, None]
    return values[place]


def _draw(image: int, evidence: Evidence) -> str | None:
    """Return a picture; None where there is none, or text is burned into it."""
    if evidence.image_set is None:
        return None
    images = evidence.image_set.images()
    row = images.table.iloc[image].to_dict()
    if row["BurnedInAnnotation"] == "YES":
        return None
    try:
        return encode(draw_picture(images.codes(image), row))
    except ImageSetError:
        return None
