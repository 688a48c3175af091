"""The words a captioner knows: one token a line, the line's number is its id."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from camscribe.runtime.errors import BundleError
from camscribe.runtime.search import DEAD, Floats

PAD, START, END, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"
SPECIAL_TOKENS = (PAD, START, END, UNKNOWN)


class Vocabulary:
    """Tokens and their ids.

    Args:
        tokens: every token once, in the order of the ids; holds the four special tokens.

    Raises:
        BundleError: a token is empty, holds white space, appears twice, or a special token is missing.
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens = tuple(tokens)
        self._ids = {token: index for index, token in enumerate(self.tokens)}
        problems = [f"no {token}" for token in SPECIAL_TOKENS if token not in self._ids]
        if len(self._ids) != len(self.tokens):
            problems.append("a token appears twice")
        if any(not token or token.split() != [token] for token in self.tokens):
            problems.append("a token is empty or holds white space")
        if problems:
            raise BundleError(f"vocabulary of {len(self.tokens)} tokens: {', '.join(problems)}")
        self.pad_id, self.start_id, self.end_id, self.unknown_id = (self._ids[token] for token in SPECIAL_TOKENS)

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: str) -> bool:
        return token in self._ids

    def id_of(self, token: str) -> int:
        """The id of ``token``, or of ``<unk>`` when it is not known."""
        return self._ids.get(token, self.unknown_id)

    def encode(self, words: Iterable[str]) -> list[int]:
        """Ids of ``words``, without ``<s>`` and ``</s>``."""
        return [self.id_of(word) for word in words]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Tokens of ``ids``; the caller leaves special tokens out where they are not wanted."""
        return [self.tokens[index] for index in ids]

    def bias(self, ban: Iterable[str] = ()) -> Floats:
        """[V] what a search adds to the log-probabilities: bans ``<pad>`` and ``<s>``, and the words in ``ban``."""
        bias = np.zeros(len(self), np.float32)
        bias[[self.pad_id, self.start_id, *self.encode(ban)]] = DEAD
        return bias

    @classmethod
    def read(cls, path: Path) -> Vocabulary:
        """Reads a vocabulary file.

        Raises:
            BundleError: the file is missing, not UTF-8, or its tokens are not a vocabulary.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(f"{path}: cannot be read as UTF-8 text ({error})") from error
        try:
            return cls(text.splitlines())
        except BundleError as error:
            raise BundleError(f"{path}: {error}") from error

    def write(self, path: Path) -> None:
        """Writes the vocabulary, one token a line."""
        path.write_text("".join(f"{token}\n" for token in self.tokens), encoding="utf-8")
