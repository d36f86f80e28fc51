"""Split groups: who may not be separated, because they share pictures."""

from __future__ import annotations

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from medkit.images.sharing import find_sharing


def table(*rows: tuple[str | None, str, bool]) -> pd.DataFrame:
    """Images as (person, source_sha256, constant)."""
    images = pd.DataFrame(rows, columns=["person", "source_sha256", "constant"])
    return images.assign(image=images.index)


def test_persons_who_share_pixels_are_one_group_with_the_smallest_key() -> None:
    sharing = find_sharing(
        table(("c", "1", False), ("b", "1", False), ("b", "2", False), ("a", "2", False))
    )
    assert sharing.split_group == ["a", "a", "a", "a"]
    assert sharing.listed == []


def test_constant_pictures_join_nobody_and_are_listed() -> None:
    sharing = find_sharing(table(("a", "0", True), ("b", "0", True), ("b", "1", False)))
    assert sharing.split_group == ["a", "b", "b"]
    assert sharing.listed == [
        {"source_sha256": "0", "images": [0, 1], "persons": 2, "reason": "constant"}
    ]


def test_a_picture_of_more_than_three_persons_joins_nobody_and_is_listed() -> None:
    four = find_sharing(table(*((person, "1", False) for person in "abcd")))
    assert four.split_group == list("abcd")
    assert four.listed == [
        {"source_sha256": "1", "images": [0, 1, 2, 3], "persons": 4, "reason": "many-persons"}
    ]
    three = find_sharing(table(*((person, "1", False) for person in "abc")))
    assert (three.split_group, three.listed) == (["a"] * 3, [])


def test_an_image_of_nobody_has_no_group_and_joins_nobody() -> None:
    sharing = find_sharing(table((None, "1", False), ("a", "1", False), ("b", "2", False)))
    assert sharing.split_group == [None, "a", "b"]
    assert sharing.listed == []


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdefg"), st.sampled_from("0123456"), st.just(False)),
        max_size=30,
    )
)
def test_no_small_share_crosses_two_groups(rows: list[tuple[str, str, bool]]) -> None:
    images = table(*rows)
    images["group"] = find_sharing(images).split_group
    for _, same in images.groupby("source_sha256"):
        assert same["person"].nunique() > 3 or same["group"].nunique() == 1
    for _, same in images.groupby("person"):
        assert same["group"].nunique() == 1
    assert (images["group"] <= images["person"]).all()
