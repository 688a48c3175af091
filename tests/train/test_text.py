"""The tokenisation of captions, the vocabulary and the words of a mirrored image."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camscribe.runtime.errors import DataError
from camscribe.runtime.vocab import SPECIAL_TOKENS
from camscribe.train.text import build_vocabulary, swap_sides, words


# What the PTB tokenizer of coco-caption printed for each of these.
@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A T-Shirt, blue.", "a t-shirt blue"),
        ("dog's", "dog 's"),
        ("dog 's", "dog 's"),
        ("dog’s", "dog 's"),
        ("dogs '", "dogs"),
        ("girls'", "girls"),
        ("don't", "do n't"),
        ("do n't", "do n't"),
        ("N'T", "n't"),
        ("they're we've i'll he'd i'm", "they 're we 've i 'll he 'd i 'm"),
        ("cannot gonna", "can not gon na"),
        ("black/white", "black/white"),
        ("5 o'clock", "5 o'clock"),
        ("rock 'n' roll", "rock 'n' roll"),
        ("a 'quoted' word", "a quoted word"),
        ('the letter "P" .', "the letter p"),
        ("2,000 people", "2,000 people"),
        ("3.5 mm", "3.5 mm"),
        ("11:44", "11:44"),
        ("#22 $5 50%", "# 22 $ 5 50 %"),
        ("café naïve straße", "café naïve straße"),
        ("Привет, мир", "привет мир"),
        ("一 只 狗", "一 只 狗"),
        ("“hi” – he", "hi he"),
        ("hello… hello...", "hello hello"),
        ("U.S. flag by Mr. Smith", "u.s. flag by mr. smith"),
        ("a -- b a- b", "a b a b"),
        ("tic-tac-toe", "tic-tac-toe"),
        ("-semi semi-", "semi semi"),
        ("AT&T", "at&t"),
        ("20's 3rd 80s", "20 's 3rd 80s"),
        ("", ""),
        (" . ", ""),
    ],
)
def test_words_are_cut_as_the_ptb_tokenizer_cuts_them(caption: str, expected: str) -> None:
    assert words(caption) == expected.split()


def test_brackets_and_missing_spaces_are_cut_better_than_the_ptb_tokenizer_does() -> None:
    assert words("(Hello) world") == ["hello", "world"]
    assert words("on the grass.The dog") == ["on", "the", "grass", "the", "dog"]


def test_marks_and_joiners_of_other_scripts_stay_inside_words() -> None:
    assert words("नमस्ते दुनिया!") == ["नमस्ते", "दुनिया"]
    assert words("می\u200cخواهم") == ["می\u200cخواهم"]


def test_the_two_ways_to_write_a_letter_make_one_word() -> None:
    assert words("cafe\u0301") == words("caf\u00e9")


@given(st.text(st.characters(exclude_categories=())))
def test_words_of_any_text_are_a_vocabulary_and_stay_as_they_are_when_cut_again(caption: str) -> None:
    found = words(caption)
    assert all(word.split() == [word] for word in found)
    assert words(" ".join(found)) == found
    assert all(word.encode("utf-8") for word in found)


def test_a_vocabulary_is_ordered_by_count_and_then_by_alphabet() -> None:
    vocabulary = build_vocabulary([["a", "dog", "a"], ["b", "dog", "cat"], ["b"]], min_count=2)
    assert vocabulary.tokens == (*SPECIAL_TOKENS, "a", "b", "dog")
    assert vocabulary.encode(["a", "cat"]) == [4, vocabulary.unknown_id]


def test_a_word_spelt_like_a_special_token_does_not_enter_twice() -> None:
    assert build_vocabulary([["<unk>", "dog"]], min_count=1).tokens == (*SPECIAL_TOKENS, "dog")


@pytest.mark.parametrize("min_count", [0, 3])
def test_a_vocabulary_without_words_is_refused(min_count: int) -> None:
    with pytest.raises(DataError, match="min_count"):
        build_vocabulary([["a", "dog"]], min_count=min_count)


@pytest.mark.parametrize(
    ("caption", "mirrored"),
    [
        ("the man on the left looks right", "the man on the right looks left"),
        ("his left hand to the right of a dog", "his right hand to the left of a dog"),
        ("from left to right", "from right to left"),
        ("a left-handed man at the far-right", "a right-handed man at the far-left"),
        ("the leftmost dog turns rightward", "the rightmost dog turns leftward"),
        ("to the right in front of a car", "to the left in front of a car"),
    ],
)
def test_sides_are_swapped(caption: str, mirrored: str) -> None:
    assert swap_sides(caption.split()) == mirrored.split()


@pytest.mark.parametrize(
    "caption",
    [
        "a dog right behind a man",
        "the boat has left the shore",
        "a bag was left alone",
        "bright upright leftover",
        "a dog runs",
    ],
)
def test_words_that_name_no_side_stay(caption: str) -> None:
    assert swap_sides(caption.split()) == caption.split()


@given(st.lists(st.sampled_from(("a", "dog", "left", "right", "the", "left-hand", "rightmost", "to", "behind", "has"))))
def test_swapping_twice_gives_the_caption_back_unless_a_phrase_protects_it(caption: list[str]) -> None:
    swapped = swap_sides(caption)
    assert len(swapped) == len(caption)
    if "has" not in caption and "behind" not in caption:
        assert swap_sides(swapped) == caption
