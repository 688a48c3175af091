"""Vocabularies."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camscribe.runtime.errors import BundleError
from camscribe.runtime.vocab import SPECIAL_TOKENS, Vocabulary


def test_a_vocabulary_reads_back_as_written(tmp_path: Path) -> None:
    vocabulary = Vocabulary([*SPECIAL_TOKENS, "dog", "café", "n't"])
    vocabulary.write(tmp_path / "vocab.txt")
    assert Vocabulary.read(tmp_path / "vocab.txt").tokens == vocabulary.tokens
    assert (tmp_path / "vocab.txt").read_text(encoding="utf-8").splitlines()[4] == "dog"


def test_words_and_ids_correspond_and_unknown_ones_are_unk() -> None:
    vocabulary = Vocabulary(["dog", *SPECIAL_TOKENS, "cat"])
    assert vocabulary.encode(["cat", "zebra", "dog"]) == [5, vocabulary.unknown_id, 0]
    assert vocabulary.decode([5, 0]) == ["cat", "dog"]
    assert (vocabulary.pad_id, vocabulary.start_id, vocabulary.end_id, vocabulary.unknown_id) == (1, 2, 3, 4)
    assert "cat" in vocabulary
    assert "zebra" not in vocabulary
    assert len(vocabulary) == 6


@pytest.mark.parametrize(
    ("tokens", "problem"),
    [
        ([], "no <pad>, no <s>, no </s>, no <unk>"),
        ([*SPECIAL_TOKENS, "a", "a"], "twice"),
        ([*SPECIAL_TOKENS, ""], "empty"),
        ([*SPECIAL_TOKENS, "a b"], "white space"),
        ([*SPECIAL_TOKENS, "a\u2028"], "white space"),
    ],
)
def test_what_is_no_vocabulary_is_refused(tokens: list[str], problem: str) -> None:
    with pytest.raises(BundleError, match=problem):
        Vocabulary(tokens)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"none\.txt: cannot be read"):
        Vocabulary.read(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(BundleError, match="UTF-8"):
        Vocabulary.read(tmp_path / "latin.txt")


@given(content=st.binary(max_size=60))
def test_any_bytes_are_a_vocabulary_or_refused_in_one_line(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed-vocab.txt"
    path.write_bytes(b"<pad>\n<s>\n</s>\n<unk>\n" + content)
    try:
        assert len(Vocabulary.read(path)) >= 4
    except BundleError as error:
        assert "\n" not in str(error)  # noqa: PT017
