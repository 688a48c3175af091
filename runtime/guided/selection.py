"""The four ways to select on the host. Each takes one image's candidates and says which beams live on and which end.

Shapes: K beams, V words. Scores are summed log-probabilities; ``DEAD`` marks what may not be.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from camscribe.runtime.search import DEAD, Floats, Ints

Indices = npt.NDArray[np.intp]


class Selected(NamedTuple):
    """A row of ``camscribe.runtime.search.Selection``: one image, arrays [K]."""

    next_token: Ints
    next_parent: Ints
    next_score: Floats
    ended_score: Floats
    ended_parent: Ints


def best(values: Floats, count: int) -> Indices:
    """Places of the ``count`` largest of ``values``, best first, of equals the first: as a stable sort, faster."""
    if len(values) > 4 * count:
        least = np.partition(values, len(values) - count)[len(values) - count]
        among = np.flatnonzero(values >= least)
    else:
        among = np.arange(len(values))
    places: Indices = among[np.argsort(-values[among], kind="stable")[:count]]
    return places


def select_beams(sums: Floats, end_id: int, count: int, ranking: Floats | None = None, first: int = 0) -> Selected:
    """The rule of ``camscribe.runtime.search.select``.

    Args:
        sums: [K, V] scores of all continuations.
        end_id: id of ``</s>``.
        count: beams that live on.
        ranking: [K, V] what decides between them; None for the scores themselves.
        first: number of the first of these K beams.
    """
    words = sums.shape[1]
    rank = best((sums if ranking is None else ranking).ravel(), min(2 * count, sums.size))
    parent, token = np.divmod(rank, words)
    score, is_end = sums.ravel()[rank], token == end_id
    live = np.argsort(is_end, kind="stable")[:count]
    return Selected(
        token[live].astype(np.int32),
        (parent[live] + first).astype(np.int32),
        score[live],
        np.where(is_end[:count], score[:count], DEAD),
        (parent[:count] + first).astype(np.int32),
    )


def select_groups(sums: Floats, end_id: int, groups: int, diversity: float) -> Selected:
    """Diverse beam search (Vijayakumar et al. 2018, Hamming diversity): groups select one after the other, and what
    earlier ones chose in this step counts ``diversity`` less for each time. Scores stay log-probabilities.

    Args:
        sums: [K, V] scores of all continuations.
        end_id: id of ``</s>``, which costs nothing.
        groups: of K / groups beams each, next to each other.
        diversity: see above.
    """
    count, words = sums.shape[0] // groups, sums.shape[1]
    said = np.zeros(words, np.float32)
    parts = []
    for first in range(0, sums.shape[0], count):
        rows = sums[first : first + count]
        parts.append(select_beams(rows, end_id, count, rows - np.float32(diversity) * said, first))
        chosen = parts[-1].next_token[parts[-1].next_score > DEAD]
        said += np.bincount(chosen, minlength=words).astype(np.float32)
        said[end_id] = 0
    return Selected(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def select_containing(sums: Floats, end_id: int, wanted: list[list[int]], *, last: bool) -> Selected:
    """Constrained beam search (Anderson et al. 2017): K / 2^C beams for each set of the C wanted words said so far.

    A caption ends only with all of them.

    Args:
        sums: [K, V] scores of all continuations; beams of set s (bit c: wanted word c) lie next to each other.
        end_id: id of ``</s>``.
        wanted: for each of the C words the ids of its forms.
        last: no step follows, so that beams without all words have no use.
    """
    sets = 1 << len(wanted)
    count, words = sums.shape[0] // sets, sums.shape[1]
    everything = sets - 1
    gains = np.zeros(words, np.intp)
    for bit, forms in enumerate(wanted):
        gains[forms] |= 1 << bit
    gaining = np.flatnonzero(gains)
    parts = []
    for target in range(sets):
        # What leads here: from this set any word that adds nothing, from a smaller one what adds all that is missing.
        places, values = [], []
        for source in range(sets):
            rows = np.arange(source * count, (source + 1) * count)
            if source == target:
                columns = np.flatnonzero((gains & ~target) == 0)
            else:
                columns = gaining[(source | gains[gaining]) == target]
            if len(columns) and source | target == target:
                places.append((rows[:, None] * words + columns).ravel())
                values.append(sums[np.ix_(rows, columns)].ravel())
        place, value = np.concatenate(places), np.concatenate(values)
        order = np.argsort(place, kind="stable")
        place, value = place[order], value[order]
        if target != everything:
            value = np.where(place % words == end_id, DEAD, value)
        rank = best(value, min(2 * count, len(value)))
        parent, token = np.divmod(place[rank], words)
        score, is_end = value[rank], token == end_id
        live = np.argsort(is_end, kind="stable")[:count]
        next_score = score[live]
        if last and target != everything:
            next_score = np.full_like(next_score, DEAD)
        parts.append(
            Selected(
                token[live].astype(np.int32),
                parent[live].astype(np.int32),
                next_score,
                np.where(is_end[:count], score[:count], DEAD),
                parent[:count].astype(np.int32),
            )
        )
    return Selected(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def draw(
    log_prob: Floats,
    score: Floats,
    end_id: int,
    generator: np.random.Generator,
    temperature: float,
    top_k: int,
    top_p: float,
) -> Selected:
    """Each live beam draws its next word by itself; one that drew ``</s>`` ends and is dead from then on.

    Args:
        log_prob: [K, V] log-probabilities, ``DEAD`` where a word is banned.
        score: [K] of the beams.
        end_id: id of ``</s>``.
        generator: takes one uniform number a beam, whether it lives or not.
        temperature, top_k, top_p: see ``GuidedOptions``.
    """
    beams, words = log_prob.shape
    uniform = generator.random((beams,))
    token = np.full(beams, end_id, np.int32)
    next_score, ended_score = np.full(beams, DEAD), np.full(beams, DEAD)
    for beam in np.flatnonzero(score > DEAD):
        row = log_prob[beam]
        order = np.argsort(-row, kind="stable")[: top_k or words]
        order = order[row[order] > DEAD / 2]
        if not len(order):
            continue
        weights = np.exp((row[order].astype(np.float64) - float(row[order[0]])) / temperature)
        share: npt.NDArray[np.float64] = np.cumsum(weights) / np.sum(weights)
        # The first words whose share reaches top_p, at least one.
        kept = int(np.searchsorted(share, top_p - 1e-12)) + 1
        share = share[:kept] / share[min(kept, len(share)) - 1]
        place = int(np.searchsorted(share, float(uniform[beam]), side="right"))
        drawn = int(order[min(place, len(share) - 1)])
        total = np.float32(score[beam] + row[drawn])
        token[beam] = drawn
        if drawn == end_id:
            ended_score[beam] = total
        else:
            next_score[beam] = total
    own = np.arange(beams, dtype=np.int32)
    return Selected(token, own, next_score, ended_score, own)
