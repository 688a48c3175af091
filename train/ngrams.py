"""N-grams of captions as integers: what both rewards count."""

from __future__ import annotations

from collections.abc import Sequence

ORDERS = 4
"""N-grams of 1 to 4 tokens."""


def ngrams(caption: Sequence[int], base: int) -> list[list[int]]:
    """The n-grams of a caption by order, each packed into one integer: far smaller and faster than tuples.

    Args:
        caption: token ids.
        base: larger than every id + 1, so that no two n-grams are the same number, of whatever orders.
    """
    tokens = [token + 1 for token in caption]  # no digit is 0, so that orders never collide
    orders = [tokens]
    for order in range(1, ORDERS):
        shorter = orders[-1]
        orders.append([ngram * base + token for ngram, token in zip(shorter, tokens[order:], strict=False)])
    return orders


def until_end(sample: Sequence[int], end_id: int) -> list[int]:
    """A sampled caption up to its ``</s>``, which is kept; whole where it was truncated."""
    ids = [int(token) for token in sample]
    return ids[: ids.index(end_id) + 1] if end_id in ids else ids
