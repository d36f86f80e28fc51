"""Promise: a shortcut that is there is called out, one that is not is not.

Draws cohorts of 400 persons with one or two images each and seven fields that know nothing of the
label (six of the header, and the mean of the border), and plants one that does: each person has the
maker that goes with the class with a probability of 0.5 + strength / 2. Alone, such a field has an
AUC of 0.5 + strength / 2. Prints, by strength, how often the audit says that something tells the
label, and how often it names the maker; strength 0 is the false alarms. The same for a mark in the
corner of the image, on the border's pixels.

Beside it, from the same fields: how often a logistic regression of scikit-learn on one-hot columns,
cross-validated by image as is commonly done, is above 0.55, on persons with eight images each whose
scanners are their own.

    python benchmarks/shortcuts.py [cohorts] [--set WORKSPACE SET LABEL]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.preprocessing import OneHotEncoder

from medkit.cohort.division import make_folds
from medkit.cohort.folds import Folds
from medkit.cohort.preparation import find_shortcuts, prepare_folds
from medkit.cohort.shortcuts import audit_shortcuts
from medkit.cohort.traits import VIEWS, Glance
from medkit.workspace import Workspace

PERSONS = 400
STRENGTHS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)


def draw_cohort(
    seed: int, strength: float, mark: float = 0.0
) -> tuple[Folds, pd.DataFrame, Glance]:
    """Return folds of a label, what is known of the images, and their pixels."""
    random = np.random.default_rng(seed)
    person = np.repeat(np.arange(PERSONS), random.integers(1, 3, PERSONS))
    sick = random.random(PERSONS) < 0.5
    follows = np.where(random.random(PERSONS) < 0.5 + strength / 2, sick, ~sick)

    def draw(*values: object) -> np.ndarray:
        return np.array(values, dtype=object)[random.integers(0, len(values), PERSONS)][person]

    table = pd.DataFrame(
        {
            "image": np.arange(len(person)),
            "split_group": [f"p{one:04}" for one in person],
            "Manufacturer": np.where(follows, "Acme", "Bolt")[person],
            "ManufacturerModelName": draw(*"abcdefgh"),
            "Rows": draw(256, 512, 1024),
            "PatientSex": draw("F", "M", None),
            "PatientAge": [f"{age:03}Y" for age in random.integers(20, 90, PERSONS)[person]],
            "StudyDate": [f"20{year:02}0101" for year in random.integers(0, 20, PERSONS)[person]],
            "BitsStored": draw(8, 12, 16),
        }
    )
    labels = table[["image", "split_group"]].assign(label=np.where(sick, "B", "A")[person])
    labels["fold"] = make_folds(labels, 5, 0)
    views = {name: random.normal(size=(len(table), 64)).astype(np.float32) for name in VIEWS}
    views["border"][:, 0] += mark * sick[person]
    border = pd.DataFrame({"border mean": random.normal(size=len(table))})
    return Folds(labels, "set", "0" * 16, "finding", 5, 0), table, Glance(border, views)


def print_power(cohorts: int) -> None:
    print(f"{cohorts} cohorts of {PERSONS} persons; share in which it is called out")
    print("strength  AUC of it   anything   the maker named   another field named")
    for strength in STRENGTHS:
        told, named, other, values = [], [], [], []
        for seed in range(cohorts):
            found = audit_shortcuts(*draw_cohort(seed, strength))
            fields = {one["field"]: one for one in found["fields"]["strongest"]}
            above = {name for name, one in fields.items() if one["above_chance"]}
            pixels = any(one["above_chance"] for one in found["pixels"])
            told.append(bool(above) or found["fields"]["above_chance"] or pixels)
            named.append("Manufacturer" in above)
            other.append(bool(above - {"Manufacturer"}) or pixels)
            if "Manufacturer" in fields:
                values.append(fields["Manufacturer"]["auc"]["value"])
        print(
            f"{strength:8.2f} {np.mean(values):10.3f} {np.mean(told):10.3f} "
            f"{np.mean(named):17.3f} {np.mean(other):21.3f}",
            flush=True,
        )
    print("\na mark on the border: strength in deviations of a pixel, share called out")
    for mark in (0.0, 0.25, 0.5, 1.0, 2.0):
        told, values = [], []
        for seed in range(cohorts):
            found = audit_shortcuts(*draw_cohort(seed, 0.0, mark))
            border = next(one for one in found["pixels"] if one["view"] == "border")
            told.append(border["above_chance"])
            values.append(border["auc"]["value"])
        print(f"{mark:8.2f} {np.mean(values):10.3f} {np.mean(told):10.3f}", flush=True)


def print_common(cohorts: int) -> None:
    """What is common: by image, not by person, and above a bound without an interval."""
    alarms = []
    for seed in range(cohorts):
        random = np.random.default_rng(seed)
        person = np.repeat(np.arange(60), 8)
        sick = (random.random(60) < 0.5)[person]
        known = np.stack([random.integers(0, 40, 60)[person] for _ in range(3)], axis=1)
        columns = OneHotEncoder().fit_transform(known)
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
        model = LogisticRegression(max_iter=200)
        scores = cross_val_predict(model, columns, sick, cv=folds, method="predict_proba")
        alarms.append(roc_auc_score(sick, scores[:, 1]) > 0.55)
    print(f"\nby image, without an interval: false alarms in {np.mean(alarms):.3f} of {cohorts}")


def print_set(place: str, name: str, label: str) -> None:
    workspace = Workspace(Path(place))
    found = find_shortcuts(workspace, prepare_folds(workspace, name, label, 5, 0)).leaks.shortcuts
    assert found is not None
    print(f"\n{name}: {found['images']} images of {found['persons']} persons")
    rows = [("together", found["fields"])] if found["fields"] else []
    rows += [(one["field"], one) for one in (found["fields"] or {"strongest": []})["strongest"]]
    rows += [(f"pixels: {one['view']}", one) for one in found["pixels"]]
    for title, one in rows:
        auc = one["auc"]
        print(f"  {title:25} {auc['value']:.3f} ({auc['low']:.3f} to {auc['high']:.3f})")
    print(f"  {found['verdict']}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("cohorts", type=int, nargs="?", default=200)
    parser.add_argument("--set", nargs=3, action="append", default=[])
    chosen = parser.parse_args()
    for asked in chosen.set:
        print_set(*asked)
    if chosen.cohorts:
        print_power(chosen.cohorts)
        print_common(chosen.cohorts)


if __name__ == "__main__":
    main()
