"""Captions as words: the tokenisation of training captions, their vocabulary, and the words of a mirrored image.

Captions are scored after the PTB tokenizer of coco-caption, so training captions are cut the same way: what the model
learns to say is then what the references say. The differences are deliberate and few: brackets leave no ``-lrb-``
behind, and two sentences without a space between them ("grass.The") come apart.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from camscribe.runtime.errors import DataError
from camscribe.runtime.vocab import SPECIAL_TOKENS, Vocabulary


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SEPARATING = _set("Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Cs")
_QUOTES_AND_DASHES = {"’": "'", "‘": "'", "‛": "'", "`": "'", "´": "'", "‐": "-", "‑": "-"}
_JOINERS = "\u200c\u200d"  # inside words of Persian and the Indic scripts
# Of every script only letters, digits and marks make words; emoji and the like end below 0x20000.
_PLAIN = str.maketrans(
    {
        **{
            c: " "
            for c in map(chr, range(0x80, 0x20000))
            if unicodedata.category(c) in _SEPARATING and c not in _JOINERS
        },
        **_QUOTES_AND_DASHES,
    }
)
_LETTER = "[^\\s!-/:-@\\[-^`{-\x7f\x00-\x1f]"
_CONTRACTION = "'(?:s|re|ve|ll|d|m)"
_TOKEN = re.compile(
    rf"""
    n't(?!{_LETTER})                                        # do n't, already apart
  | {_LETTER}+?(?=n't(?!{_LETTER}))                         # don't -> do n't
  | {_CONTRACTION}(?!{_LETTER})                             # dog's -> dog 's
  | '(?:em|til|n')(?!{_LETTER})                             # rock 'n' roll
  | (?:{_LETTER}\.)+{_LETTER}(?!{_LETTER})\.?              # u.s.a  u.s.
  | (?:mr|mrs|ms|dr|st|jr)\.(?={_LETTER}|\s+{_LETTER})      # mr. smith
  | \d+(?:[.,:]\d+)+(?!{_LETTER})                           # 2,000  3.5  11:44
  | {_LETTER}+(?:(?!{_CONTRACTION}(?!{_LETTER}))['/&-]{_LETTER}+)*   # t-shirt  o'clock  black/white  at&t
  | [#&$%@+=]
    """,
    re.VERBOSE,
)
# Words that the Penn Treebank takes apart.
_SPLIT = {"cannot": ("can", "not"), "gonna": ("gon", "na"), "gotta": ("got", "ta"), "wanna": ("wan", "na")}

_MIRROR = {"left": "right", "right": "left"}
_SIDED = re.compile(r"(?:(?:left|right)(?:-.+|most|hand|handed|wards?)|.+-(?:left|right))\Z")
# "right behind the dog", "the man has left": no sides. After one of _NAMES_A_SIDE they are.
_NAMES_A_SIDE = _set("the his her its their my your 's to far upper lower top bottom front rear facing")
_ADVERB = _set(
    "after before behind by beside next in into at above over under out off up now through past near against outside"
    " underneath below around along alongside where as about"
)
_AFTER_LEAVING = _set("has have had having was were being been get got gets just recently")
_LEAVING = _set("behind alone over open out standing unattended")


def words(caption: str) -> list[str]:
    """The words of ``caption``: lower case, punctuation dropped, as the PTB tokenizer of coco-caption cuts them.

    Hyphenated words stay whole (``t-shirt``), possessives and contractions come apart (``dog 's``, ``do n't``) however
    they were written, digits and the letters of every script are kept.
    """
    found = _TOKEN.findall(unicodedata.normalize("NFC", caption).lower().translate(_PLAIN))
    return [part for token in found for part in _SPLIT.get(token, (token,))]


def build_vocabulary(captions: Iterable[Sequence[str]], min_count: int) -> Vocabulary:
    """The vocabulary of tokenised captions: special tokens, then words by falling count, then by alphabet.

    Args:
        captions: the words of each training caption.
        min_count: a word that is rarer becomes ``<unk>``; 1 keeps all.

    Raises:
        DataError: no word is left, or ``min_count`` is less than 1.
    """
    if min_count < 1:
        raise DataError(f"min_count is {min_count}; expected 1 or more")
    counts = Counter(word for caption in captions for word in caption)
    kept = [word for word, count in counts.items() if count >= min_count and word not in SPECIAL_TOKENS]
    if not kept:
        raise DataError(
            f"no word appears {min_count} times in the training captions; lower min_count or check the captions"
        )
    return Vocabulary([*SPECIAL_TOKENS, *sorted(kept, key=lambda word: (-counts[word], word))])


def swap_sides(caption: Sequence[str]) -> list[str]:
    """The words of a caption for the mirrored image: left and right change places where they name a side.

    "right behind" and "has left" name none and stay.
    """
    return [_mirrored(caption, index) for index in range(len(caption))]


def _mirrored(caption: Sequence[str], index: int) -> str:
    word = caption[index]
    if _SIDED.match(word):
        return re.sub("left|right", lambda found: _MIRROR[found[0]], word)
    if word not in _MIRROR:
        return word
    previous = caption[index - 1] if index else ""
    following = caption[index + 1] if index + 1 < len(caption) else ""
    if previous not in _NAMES_A_SIDE and (
        (word == "right" and following in _ADVERB)
        or (word == "left" and (previous in _AFTER_LEAVING or following in _LEAVING))
    ):
        return word
    return _MIRROR[word]
