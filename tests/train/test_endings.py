from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from camscribe.train.endings import Endings

CAPTIONS = [
    *(
        f"a {who} sits in a blue {what}".split()
        for who in ("man", "dog")
        for what in ("chair", "bowl")
        for _ in range(50)
    ),
    *[["a", "man", "dressed", "in", "blue"]] * 4,
]


@pytest.mark.parametrize(
    ("caption", "unfinished"),
    [
        ("a dog is in a blue", True),
        ("a dog in a", True),
        ("a man sits in", True),
        ("a man", True),  # 200 times seen, and nothing ended there
        ("a man in blue", False),
        ("blue", False),
        ("a chair", False),
        ("a blue bowl", False),
        ("a purple", False),  # never seen: not judged
        ("purple", False),
        ("", True),
    ],
)
def test_what_never_ends_a_caption_is_an_unfinished_one(caption: str, unfinished: bool) -> None:
    assert Endings(CAPTIONS).unfinished(caption.split()) is unfinished


def test_the_share_is_that_of_the_last_two_words_backed_off_to_one_and_to_any() -> None:
    endings = Endings([(1, 2), (1, 2), (1, 2, 3)])
    anything = 3 / 7
    two = (2 + 10 * anything) / (3 + 10)
    assert endings.share((2,)) == pytest.approx(two)
    assert endings.share((7, 1, 2)) == pytest.approx((2 + 10 * two) / (3 + 10))
    assert endings.share((9, 2)) == pytest.approx(two)
    assert endings.share((9,)) == pytest.approx(anything)


def test_without_captions_nothing_is_judged() -> None:
    assert not Endings([]).unfinished(["a", "dog"])
    assert Endings([]).unfinished([])


@given(
    st.lists(st.lists(st.integers(0, 3), max_size=5), max_size=20), st.lists(st.integers(0, 4), min_size=1, max_size=5)
)
def test_a_share_is_one(captions: list[list[int]], caption: list[int]) -> None:
    assert 0 <= Endings(captions).share(caption) <= 1
