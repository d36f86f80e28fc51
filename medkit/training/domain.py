"""The training domain: what the images of a run were, and whether other images are like them.

    runs/NAME/domain.json

A network gives a probability for whatever it is shown. Of another modality, in colour, or as a
negative, an image is refused; of another size, maker or body part, it is predicted with a warning.
One whose values have no range is refused in any case, for nothing says how to show it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from medkit.catalog.store import Catalog
from medkit.errors import MedkitError
from medkit.images.imageset import ImageSet
from medkit.images.reader import Images
from medkit.workspace import Workspace, read_json, write_json

Domain = Mapping[str, Any]
Floats = npt.NDArray[np.float64]
Texts = npt.NDArray[np.object_]

DOMAIN = "domain.json"
UNKNOWN = "unknown"

# How far beyond the trained sizes and spacings an image may be without a warning: to half the
# smallest and twice the largest.
FACTOR = 2.0
# Modalities whose values mean the same whatever MONOCHROME1 wishes for their display.
_MEASURED = ("CT", "MR", "PT", "NM")
_SIDE = 16  # of the small pictures by which a negative is known
_LOOKS = 1024  # images that are looked at for that
_FEWEST = 20  # of whom a mean picture says something
# How alike images must be to their mean, but for one in twenty, for it to tell a negative: one is
# whose correlation with the mean is minus half of that. Measured on half of each set against the
# other half: of 2,920 chest X-rays 0 were refused and all but 2 of their negatives, of 3,209
# blood cells 0 and all but 1.
_ALIKE, _BUT = 0.3, 0.05


RANGE = "range"


class Verdict(NamedTuple):
    """What is said of some images.

    Attributes
    ----------
    refused : DataFrame
        Columns position (in the table that was judged), code and detail; the first reason only,
        and first of all `RANGE`.
    warnings : ndarray of str, shape (n,)
        ``code: detail``, several separated by ``"; "``; empty where there is none.
    notes : list of str
        What could not be compared.
    """

    refused: pd.DataFrame
    warnings: Texts
    notes: list[str]


def describe_domain(images: Images, catalog: Catalog | None) -> dict[str, Any]:
    """Return what images are, as ``domain.json`` has it; nothing in it is of one person.

    Parameters
    ----------
    images : Images
        That a run was trained on.
    catalog : Catalog, optional
        Where their series, and so their body parts, stand.
    """
    table, kinds = images.table, _name_kinds(images.table, catalog)
    return {
        "images": len(table),
        **{name: _count(values) for name, values in kinds.items()},
        **{name: _span(values) for name, values in _list_sizes(table).items()},
        "without_range": int((~_has_range(table)).sum()),
        "full_low": _tell_quantiles(table["full_low"]),
        "full_high": _tell_quantiles(table["full_high"]),
        "picture": _describe_picture(images),
    }


def write_domain(
    folder: Path, workspace: Workspace, image_set: ImageSet, numbers: npt.NDArray[np.int64]
) -> None:
    """Write what a run was trained on into its folder.

    Parameters
    ----------
    folder : Path
        Of the run.
    workspace : Workspace
        Holds the catalog.
    image_set : ImageSet
        That was trained on.
    numbers : ndarray of int64
        The images of it that were.
    """
    images = image_set.images().take(np.flatnonzero(image_set.table["image"].isin(numbers)))
    write_json(folder / DOMAIN, describe_domain(images, open_catalog(workspace.catalog)))


def find_domain(folder: Path, run: Mapping[str, Any], workspace: Workspace) -> Domain | None:
    """Return the training domain of a run; None where nothing tells it any more.

    A run from before there was ``domain.json`` is given it, if its set is still as it was.
    """
    if not (folder / DOMAIN).exists():
        try:
            image_set = ImageSet.open(workspace.set(run["set"]))
        except MedkitError:
            return None
        if image_set.id != run["set_id"]:
            return None
        cohort = pd.read_parquet(folder / "cohort.parquet", columns=["image"])
        write_domain(folder, workspace, image_set, cohort["image"].to_numpy(np.int64))
    domain: Domain = read_json(folder / DOMAIN)
    return domain


def open_catalog(folder: Path) -> Catalog | None:
    """Return a catalog, or None where there is none that can be read."""
    try:
        return Catalog.open(folder)
    except MedkitError:
        return None


def judge(domain: Domain | None, images: Images, catalog: Catalog | None) -> Verdict:
    """Compare images with a training domain.

    Parameters
    ----------
    domain : mapping or None
        From `find_domain`.
    images : Images
        In any view.
    catalog : Catalog, optional
        That they are from.
    """
    count = len(images)
    texts = {name: np.full(count, "", dtype=object) for name in (*_REFUSALS, *_WARNINGS)}
    notes = ["it is not known what the run was trained on, so nothing was compared with it"]
    if domain is not None and count:
        seen = _Seen(domain, images, _name_kinds(images.table, catalog))
        texts |= {name: check(seen) for name, check in (_REFUSALS | _WARNINGS).items()}
    if domain is not None:
        notes = _tell_unknown(domain)
    refused = [
        (position, name, texts[name][position])
        for position in range(count)
        if (name := next((name for name in _REFUSALS if texts[name][position]), ""))
    ]
    told = [_join(texts, position) for position in range(count)]
    columns = ["position", "code", "detail"]
    return Verdict(
        pd.DataFrame(refused, columns=columns), np.array(told, dtype=object).reshape(count), notes
    )


def _join(texts: Mapping[str, Texts], position: int) -> str:
    return "; ".join(f"{n}: {texts[n][position]}" for n in texts if texts[n][position])


def _tell_unknown(domain: Domain) -> list[str]:
    names = [name for name in ("modality", "body-part", "maker") if set(domain[name]) <= {UNKNOWN}]
    told = [f"the training images have no {name}, so it was not compared" for name in names]
    if domain["picture"]["mean"] is None:
        told.append(f"negatives were not looked for: {domain['picture']['note']}")
    return told


def _name_kinds(table: pd.DataFrame, catalog: Catalog | None) -> dict[str, Texts]:
    """Return what images are by name, `UNKNOWN` where nothing says it."""
    colour = np.where(table["array"].str.endswith("x3"), "colour", "grey")
    display = table["PhotometricInterpretation"].fillna(UNKNOWN) + " " + table["polarity"]
    return {
        "modality": _spell(table["Modality"]),
        "colour": _spell(pd.Series(colour, dtype=object)),
        "display": _spell(display),
        "maker": _spell(table["Manufacturer"]),
        "body-part": _spell(_find_body_parts(table, catalog)),
        "bits": _spell(table["BitsStored"].astype("Int64").astype("string")),
        "units": _spell(table["units"]),
    }


def _spell(values: pd.Series[Any]) -> Texts:
    # Case and padding are spelt as one likes, and nobody needs more of a name than this.
    told = values.astype("string").fillna("").str.strip().str[:64].to_numpy(dtype=object)
    spelt: Texts = np.where(told == "", UNKNOWN, told)
    return spelt


def _find_body_parts(table: pd.DataFrame, catalog: Catalog | None) -> pd.Series[Any]:
    if catalog is None:
        return pd.Series(np.full(len(table), None, dtype=object))
    series = catalog.table("series").drop_duplicates("SeriesInstanceUID")
    parts = series.set_index("SeriesInstanceUID")["BodyPartExamined"].astype("string")
    return table["SeriesInstanceUID"].map(parts).astype("string").str.upper()


def _list_sizes(table: pd.DataFrame) -> dict[str, Floats]:
    """Return rows and columns of the sources, and millimetres a pixel, NaN where unknown."""
    spacing = [
        float("nan") if value is None or value is pd.NA or not np.size(value) else float(value[0])
        for value in table["PixelSpacing"]
    ]
    sizes = {name.lower(): table[name].to_numpy(float, na_value=np.nan) for name in _SIZED}
    return {**sizes, "spacing": np.array(spacing, dtype=float)}


_SIZED = ("Rows", "Columns")


def _count(values: Texts) -> dict[str, int]:
    names, counts = np.unique(values.astype(str), return_counts=True)
    return dict(zip(names.tolist(), counts.tolist(), strict=True))


def _span(values: Floats) -> list[float] | None:
    known = values[np.isfinite(values) & (values > 0)]
    return [float(known.min()), float(known.max())] if len(known) else None


def _has_range(table: pd.DataFrame) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = np.isfinite(table["full_high"].to_numpy(float, na_value=np.nan))
    return found


def _tell_quantiles(values: pd.Series[Any]) -> list[float] | None:
    """Return the 1st, 50th and 99th percentile."""
    known = values.dropna().to_numpy(float)
    known = known[np.isfinite(known)]
    return np.quantile(known, [0.01, 0.5, 0.99]).tolist() if len(known) else None


def _describe_picture(images: Images) -> dict[str, Any]:
    """Return the mean of small pictures, and how alike images are to the mean of the others.

    The correlation of a negative with the mean is that of its positive with the sign turned,
    whatever brightness, contrast and window are. So where nearly all images are like the mean, an
    image that is as unlike it is a negative.
    """
    ranged = np.flatnonzero(_has_range(images.table))
    chosen = np.linspace(0, len(ranged) - 1, min(len(ranged), _LOOKS)).astype(int)
    if len(chosen) < _FEWEST:
        return {"mean": None, "alike": None, "note": "the training images are too few"}
    looks = np.concatenate(list(_look(images.take(ranged[chosen]))))
    total = looks.sum(axis=0)
    others = total - looks
    others /= np.maximum(np.linalg.norm(others, axis=1, keepdims=True), 1e-12)
    alike = float(np.quantile((looks * others).sum(axis=1), _BUT))
    if alike < _ALIKE:
        note = "the training images are too unlike one another"
        return {"mean": None, "alike": alike, "note": note}
    mean = total / np.linalg.norm(total)
    return {"mean": mean.round(5).tolist(), "alike": alike, "note": ""}


def _look(images: Images) -> Iterator[Floats]:
    """Yield small pictures as rows of mean 0 and length 1; of a blank image, of length 0."""
    for batch in images.with_view(window="full", channels=1, size=_SIDE).batches(64):
        rows = batch.reshape(len(batch), -1).astype(np.float64)
        rows -= rows.mean(axis=1, keepdims=True)
        yield rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


class _Seen(NamedTuple):
    """Images beside a training domain."""

    domain: Domain
    images: Images
    kinds: dict[str, Texts]

    def find_others(self, name: str) -> npt.NDArray[np.bool_]:
        """Say which images are of a kind that was not trained on; none if no kind is known."""
        trained = set(self.domain[name])
        if trained <= {UNKNOWN}:
            return np.zeros(len(self.images), dtype=bool)
        return ~np.isin(self.kinds[name].astype(str), sorted(trained))

    def tell(self, name: str, where: npt.NDArray[np.bool_]) -> Texts:
        """Return a sentence where images are of another kind."""
        known = ", ".join(sorted(self.domain[name])[:8])
        texts = np.full(len(self.images), "", dtype=object)
        for position in np.flatnonzero(where):
            texts[position] = f"{self.kinds[name][position]} (trained on {known})"
        return texts


def _check_range(seen: _Seen) -> Texts:
    texts = np.full(len(seen.images), "", dtype=object)
    if not seen.domain["without_range"]:
        texts[~_has_range(seen.images.table)] = (
            "floating-point values without a range; those of the training images have one"
        )
    return texts


def _check_modality(seen: _Seen) -> Texts:
    return seen.tell("modality", seen.find_others("modality"))


def _check_colour(seen: _Seen) -> Texts:
    return seen.tell("colour", seen.find_others("colour") & (seen.kinds["colour"] == "colour"))


def _check_display(seen: _Seen) -> Texts:
    """Find MONOCHROME1 that nothing resolves: not turned, and of no modality that measures."""
    measured = np.isin(seen.kinds["modality"].astype(str), _MEASURED)
    unresolved = (seen.kinds["display"] == "MONOCHROME1 kept") & ~measured
    return seen.tell("display", unresolved & seen.find_others("display"))


def _check_negative(seen: _Seen) -> Texts:
    texts = np.full(len(seen.images), "", dtype=object)
    picture = seen.domain["picture"]
    if picture["mean"] is None:
        return texts
    mean, alike = np.array(picture["mean"]), float(picture["alike"])
    ranged = np.flatnonzero(_has_range(seen.images.table))
    found = [rows @ mean for rows in _look(seen.images.take(ranged))]
    for position, value in zip(ranged, np.concatenate([[], *found]), strict=True):
        if value <= -alike / 2:
            texts[position] = (
                f"light and dark are turned (correlation {value:.2f} with the mean of the training "
                f"images, of which 95 % have more than {alike:.2f})"
            )
    return texts


def _check_kind(name: str) -> Callable[[_Seen], Texts]:
    """Return a check that warns of known kinds which were not trained on."""
    return lambda seen: seen.tell(name, seen.find_others(name) & (seen.kinds[name] != UNKNOWN))


def _check_size(seen: _Seen) -> Texts:
    sizes = _list_sizes(seen.images.table)
    return _tell_beyond(seen.domain, {name: sizes[name] for name in ("rows", "columns")})


def _check_spacing(seen: _Seen) -> Texts:
    return _tell_beyond(seen.domain, {"spacing": _list_sizes(seen.images.table)["spacing"]})


def _tell_beyond(domain: Domain, sizes: Mapping[str, Floats]) -> Texts:
    texts = np.full(len(next(iter(sizes.values()))), "", dtype=object)
    for name, values in sizes.items():
        if domain[name] is None:
            continue
        low, high = domain[name]
        for position in np.flatnonzero((values < low / FACTOR) | (values > high * FACTOR)):
            texts[position] = texts[position] or (
                f"{name} {values[position]:g} (trained on {low:g} to {high:g})"
            )
    return texts


_REFUSALS: dict[str, Callable[[_Seen], Texts]] = {
    RANGE: _check_range,
    "modality": _check_modality,
    "colour": _check_colour,
    "display": _check_display,
    "negative": _check_negative,
}
_WARNINGS: dict[str, Callable[[_Seen], Texts]] = {
    "size": _check_size,
    "spacing": _check_spacing,
    **{name: _check_kind(name) for name in ("maker", "body-part", "bits", "units")},
}
