"""The training domain: what is unlike the training images is refused or warned of, nothing else."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medkit.images.imageset import IMAGES_SCHEMA
from medkit.images.reader import CachedCodes, Images
from medkit.training.domain import UNKNOWN, describe_domain, judge

SIDE = 20


def make_images(
    count: int = 30, *, seed: int = 0, negative: bool = False, **columns: Any
) -> Images:
    """Return images of a bright disc in front of noise, with these columns in their table."""
    random = np.random.default_rng(seed)
    rows, width = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    disc = np.where(np.hypot(rows, width) < SIDE / 3, 3000, 800)
    codes = np.clip(disc + random.normal(0, 300, (count, SIDE, SIDE)), 0, 4095).astype(np.uint16)
    if negative:
        codes = 4095 - codes
    facts = {
        **{"image": range(count), "row": range(count), "array": "uint16x1", "Modality": "CR"},
        **{"PhotometricInterpretation": "MONOCHROME2", "polarity": "kept", "BitsStored": 12},
        **{"Manufacturer": "Maker", "Rows": 500, "Columns": 400, "units": None},
        **{"slope": 1.0, "intercept": 0.0, "full_low": 0.0, "full_high": 4095.0},
        **{"PixelSpacing": [[0.2, 0.2]] * count, "pixels_sha256": "0" * 64},
    }
    table = pd.DataFrame({name: None for name in IMAGES_SCHEMA.names}, index=range(count))
    table = table.assign(**(facts | columns))
    stored = {"uint16x1": (np.arange(count), codes)}
    if table["array"].iloc[0] == "uint8x3":
        stored = {"uint8x3": (np.arange(count), np.stack([codes >> 4] * 3, axis=-1))}
    return Images(CachedCodes(stored, (SIDE, SIDE)), table)


@pytest.fixture(scope="module")
def domain() -> dict[str, Any]:
    """As ``domain.json`` reads back."""
    described: dict[str, Any] = json.loads(json.dumps(describe_domain(make_images(), None)))
    return described


def test_the_domain_says_what_the_images_were(domain: dict[str, Any]) -> None:
    assert domain["images"] == 30
    assert domain["modality"] == {"CR": 30}
    assert domain["colour"] == {"grey": 30}
    assert domain["display"] == {"MONOCHROME2 kept": 30}
    assert domain["maker"] == {"Maker": 30}
    assert domain["units"] == domain["body-part"] == {UNKNOWN: 30}
    assert (domain["rows"], domain["spacing"]) == ([500, 500], [0.2, 0.2])
    assert domain["full_high"] == [4095.0] * 3


@given(st.integers(1, 2**16))
def test_images_like_those_trained_on_are_neither_refused_nor_warned_of(seed: int) -> None:
    domain = describe_domain(make_images(), None)
    verdict = judge(domain, make_images(seed=seed), None)
    assert verdict.refused.empty
    assert set(verdict.warnings) == {""}


@pytest.mark.parametrize(
    ("columns", "code", "detail"),
    [
        ({"Modality": "MR"}, "modality", r"MR \(trained on CR\)"),
        ({"Modality": None}, "modality", r"unknown \(trained on CR\)"),
        ({"array": "uint8x3"}, "colour", r"colour \(trained on grey\)"),
        (
            {"PhotometricInterpretation": "MONOCHROME1"},
            "display",
            r"MONOCHROME1 kept \(trained on MONOCHROME2 kept\)",
        ),
        ({"negative": True}, "negative", "light and dark are turned"),
        ({"full_high": np.nan}, "range", "floating-point values without a range"),
    ],
)
def test_what_a_network_cannot_know_is_refused(
    columns: dict[str, Any], code: str, detail: str, domain: dict[str, Any]
) -> None:
    verdict = judge(domain, make_images(seed=1, **columns), None)
    assert verdict.refused["position"].tolist() == list(range(30))
    assert set(verdict.refused["code"]) == {code}
    assert verdict.refused["detail"].str.match(detail).all()
    assert all(text.startswith(f"{code}: ") for text in verdict.warnings)


@pytest.mark.parametrize(
    ("columns", "warning"),
    [
        ({"Rows": 1001}, "size: rows 1001 (trained on 500 to 500)"),
        ({"Columns": 199}, "size: columns 199 (trained on 400 to 400)"),
        ({"PixelSpacing": [[0.05, 0.05]] * 30}, "spacing: spacing 0.05 (trained on 0.2 to 0.2)"),
        ({"Manufacturer": "Other"}, "maker: Other (trained on Maker)"),
        ({"BitsStored": 16}, "bits: 16 (trained on 12)"),
        ({"Rows": 1000, "Columns": 200, "PixelSpacing": [[0.1, 0.1]] * 30}, ""),
        ({"Manufacturer": None, "PixelSpacing": None, "Rows": None, "units": "US"}, ""),
        ({"polarity": "turned", "PhotometricInterpretation": "MONOCHROME1"}, ""),
    ],
)
def test_what_may_matter_is_warned_of(
    columns: dict[str, Any], warning: str, domain: dict[str, Any]
) -> None:
    verdict = judge(domain, make_images(seed=1, **columns), None)
    assert verdict.refused.empty
    assert set(verdict.warnings) == {warning}


def test_monochrome1_of_a_modality_that_measures_is_no_negative() -> None:
    domain = describe_domain(make_images(Modality="CT"), None)
    other = make_images(Modality="CT", PhotometricInterpretation="MONOCHROME1")
    assert judge(domain, other, None).refused.empty


def test_pictures_have_no_modality_and_are_compared_by_the_rest() -> None:
    unknown = {"Modality": None, "Manufacturer": None, "PixelSpacing": None}
    domain = describe_domain(make_images(**unknown), None)
    verdict = judge(domain, make_images(**unknown), None)
    assert verdict.refused.empty
    assert verdict.notes == [
        f"the training images have no {name}, so it was not compared"
        for name in ("modality", "body-part", "maker")
    ]
    turned = judge(domain, make_images(negative=True, **unknown), None)
    assert set(turned.refused["code"]) == {"negative"}


@pytest.mark.parametrize(("count", "full_high"), [(19, 4095.0), (30, np.nan)])
def test_negatives_are_not_looked_for_where_nothing_tells_them(
    count: int, full_high: float
) -> None:
    domain = describe_domain(make_images(count, full_high=full_high), None)
    verdict = judge(domain, make_images(negative=True), None)
    assert verdict.refused.empty
    assert "negatives were not looked for" in verdict.notes[-1]


def test_images_that_are_unlike_one_another_tell_no_negative() -> None:
    images = make_images()
    shuffled = np.random.default_rng(0).permuted(
        images.source.codes["uint16x1"][1].reshape(30, -1), axis=1
    )
    codes = shuffled.reshape(30, SIDE, SIDE)
    source = CachedCodes({"uint16x1": (np.arange(30), codes)}, (SIDE, SIDE))
    domain = describe_domain(Images(source, images.table), None)
    assert domain["picture"]["mean"] is None


def test_without_a_domain_nothing_is_refused_and_it_is_said() -> None:
    verdict = judge(None, make_images(), None)
    assert verdict.refused.empty
    assert verdict.notes == [
        "it is not known what the run was trained on, so nothing was compared with it"
    ]


def test_the_body_part_is_that_of_the_series_in_the_catalog() -> None:
    class Known:
        def table(self, name: str) -> pd.DataFrame:
            assert name == "series"
            parts = [("1.2", "Chest"), ("1.3", "KNEE "), ("1.4", None)]
            return pd.DataFrame(parts, columns=["SeriesInstanceUID", "BodyPartExamined"])

    catalog: Any = Known()
    domain = describe_domain(make_images(SeriesInstanceUID="1.2"), catalog)
    assert domain["body-part"] == {"CHEST": 30}
    knees = judge(domain, make_images(SeriesInstanceUID="1.3"), catalog)
    assert set(knees.warnings) == {"body-part: KNEE (trained on CHEST)"}
    nowhere = judge(domain, make_images(SeriesInstanceUID="1.4"), catalog)
    assert set(nowhere.warnings) == {""}
