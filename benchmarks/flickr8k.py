"""Captions of Flickr8k as token ids, cut as training cuts them."""

from __future__ import annotations

from pathlib import Path

from camscribe.runtime.errors import DataError
from camscribe.runtime.vocab import Vocabulary

MAX_WORDS = 20


def read_captions(data: Path, split: str, vocabulary: Vocabulary) -> dict[str, list[tuple[int, ...]]]:
    """The captions of a split by the photograph's file name, without ``<s>`` and ``</s>``.

    Args:
        data: folder with ``captions.<split>.tsv``.
        split: ``train`` or ``dev``.
        vocabulary: whose ids are given.

    Raises:
        DataError: the file is missing or broken.
    """
    table = data / f"captions.{split}.tsv"
    try:
        lines = table.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{table}: cannot be read ({error.strerror}); expected Flickr8k's captions") from error
    captions: dict[str, list[tuple[int, ...]]] = {}
    for number, line in enumerate(lines, 1):
        name, tab, text = line.partition("\t")
        if not tab or "#" not in name:
            raise DataError(f"{table}:{number}: is {line[:40]!r}; expected 'name.jpg#0<TAB>caption'")
        words = [word for word in text.lower().split() if any(letter.isalnum() for letter in word)]
        captions.setdefault(name.rpartition("#")[0], []).append(tuple(vocabulary.encode(words[:MAX_WORDS])))
    return captions
