"""Scores of captions: BLEU, METEOR, ROUGE-L and CIDEr by pycocoevalcap, and counters of what readers notice first.

The scores are coco-caption's, on the same tokens, so that they compare with published ones. Without Java there is no
METEOR, and ``words`` of ``camscribe.train.text`` takes the place of the PTB tokenizer; the result says so.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from camscribe.runtime.errors import DataError, OptionError
from camscribe.runtime.guided.guide import BAD_ENDINGS
from camscribe.runtime.vocab import SPECIAL_TOKENS, Vocabulary
from camscribe.train.text import words

Tokenizer = Literal["ptb", "words", "spaces"]
_ADJECTIVES = (
    "black blue brown colorful dark golden gray green grey light multicolored orange pink purple red tan white yellow "
    "big large little long old plastic rocky sandy small snowy striped tall wooden young"
)
ADJECTIVES = frozenset(_ADJECTIVES.split())
"""Behind an article they want a noun."""
_ARTICLES = frozenset(("a", "an", "the"))
METRICS = ("bleu1", "bleu2", "bleu3", "bleu4", "meteor", "rouge_l", "cider")


@dataclass(frozen=True)
class Scores:
    """Caption scores of a set of images."""

    values: dict[str, float]
    """By name, those of ``METRICS`` that could be had; all between 0 and 1 but CIDEr, which goes to 10."""
    tokenizer: Tokenizer
    """How captions and references were cut: ``ptb`` is the one of published scores."""
    images: int
    missing: tuple[str, ...]
    """What could not be had, and why."""

    def to_dict(self) -> dict[str, Any]:
        """The JSON-able form."""
        return asdict(self)


@dataclass(frozen=True)
class Quality:
    """What a reader of many captions notices."""

    captions: int
    different: int
    """Number of different captions."""
    bad_endings: int
    """Captions whose last word is one of ``BAD_ENDINGS``, those that end with an article and nothing but ``ADJECTIVES``
    behind it ("... in a blue", "... of a red and white"), and captions without a word."""
    stuttered: int
    """Captions with the same word twice in a row."""
    mean_words: float
    words_used: int
    """Number of different words over all captions."""
    vocabulary_used: float | None
    """Those as a share of the vocabulary's words; None where the vocabulary is not known."""

    @property
    def bad_ending_share(self) -> float:
        """Share of captions with a bad ending."""
        return self.bad_endings / self.captions

    def to_dict(self) -> dict[str, Any]:
        """The JSON-able form."""
        return {**asdict(self), "bad_ending_share": self.bad_ending_share}


def score(
    captions: Mapping[str, str], references: Mapping[str, Sequence[str]], tokenizer: Tokenizer | None = None
) -> Scores:
    """BLEU-1..4, METEOR, ROUGE-L and CIDEr of one caption an image.

    Args:
        captions: image -> caption.
        references: image -> what people wrote; for exactly the images of ``captions``.
        tokenizer: ``ptb`` (needs Java), ``words`` (``camscribe.train.text``) or ``spaces`` (text that is cut already).
            None takes ``ptb`` where it runs, else ``words``, which ``Scores.missing`` then says.

    Raises:
        DataError: there is no caption, or the images differ, or one has no reference.
        OptionError: the tokenizer is unknown.
        JavaError: the tokenizer ``ptb`` was asked for and does not run.
    """
    from camscribe.train.java_metrics import JavaError, meteor

    _check(captions, references)
    missing = []
    if tokenizer is None:
        try:
            hypotheses, targets = _tokenise(captions, references, "ptb")
            tokenizer = "ptb"
        except JavaError as error:
            missing.append(f"PTB tokenizer: {error}; cut by 'words' instead, published scores differ slightly")
            hypotheses, targets = _tokenise(captions, references, "words")
            tokenizer = "words"
    else:
        hypotheses, targets = _tokenise(captions, references, tokenizer)
    values = _python_scores(hypotheses, targets)
    try:
        values["meteor"] = meteor(hypotheses, targets)
    except JavaError as error:
        missing.append(f"METEOR: {error}")
    ordered = {name: values[name] for name in METRICS if name in values}
    return Scores(ordered, tokenizer, len(captions), tuple(missing))


def cider(captions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> float:
    """CIDEr alone, cut by ``words`` and without Java: the quick score that chooses checkpoints.

    Raises:
        DataError: as ``score``.
    """
    from pycocoevalcap.cider.cider import Cider

    _check(captions, references)
    hypotheses, targets = _tokenise(captions, references, "words")
    return float(_run(Cider().compute_score, hypotheses, targets))


def quality(captions: Iterable[str], vocabulary: Vocabulary | None = None) -> Quality:
    """Counts what a reader of many captions notices. Captions are cut by ``words``.

    Raises:
        DataError: there is no caption.
    """
    cut = [tuple(words(caption)) for caption in captions]
    if not cut:
        raise DataError("no captions to judge")
    used = {word for caption in cut for word in caption}
    known = None if vocabulary is None else [token for token in vocabulary.tokens if token not in SPECIAL_TOKENS]
    return Quality(
        captions=len(cut),
        different=len(set(cut)),
        bad_endings=sum(map(_ends_badly, cut)),
        stuttered=sum(any(a == b for a, b in itertools.pairwise(caption)) for caption in cut),
        mean_words=sum(map(len, cut)) / len(cut),
        words_used=len(used),
        vocabulary_used=len(used.intersection(known)) / len(known) if known else None,
    )


def _ends_badly(caption: Sequence[str]) -> bool:
    if not caption or caption[-1] in BAD_ENDINGS:
        return True
    # Without an article an adjective may well be the last word: "dressed in blue", "the dogs are brown and white".
    described = next((word for word in reversed(caption) if word not in ADJECTIVES and word != "and"), "")
    return described in _ARTICLES


def _check(captions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> None:
    if not captions:
        raise DataError("no captions to score")
    bare = [image for image in captions if not references.get(image)]
    if bare:
        raise DataError(f"{len(bare)} captioned images have no reference, the first is {bare[0]}")
    silent = [image for image in references if image not in captions]
    if silent:
        raise DataError(f"{len(silent)} images with references have no caption, the first is {silent[0]}")


def _tokenise(
    captions: Mapping[str, str], references: Mapping[str, Sequence[str]], tokenizer: Tokenizer
) -> tuple[list[str], list[list[str]]]:
    """Captions and their references in the order of ``captions``, tokens apart by one space."""
    from camscribe.train.java_metrics import ptb_tokenize

    cutters: dict[str, Callable[[Sequence[str]], list[str]]] = {
        "ptb": ptb_tokenize,
        "words": lambda texts: [" ".join(words(text)) for text in texts],
        "spaces": lambda texts: [" ".join(text.split()) for text in texts],
    }
    if tokenizer not in cutters:
        raise OptionError(f"tokenizer is {tokenizer!r}; expected one of {', '.join(cutters)}")
    # All in one call: Java starts slowly.
    cut = iter(cutters[tokenizer]([*captions.values(), *(text for image in captions for text in references[image])]))
    hypotheses = [next(cut) for _ in captions]
    return hypotheses, [[next(cut) for _ in references[image]] for image in captions]


def _python_scores(hypotheses: list[str], targets: list[list[str]]) -> dict[str, float]:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    def bleu(gts: dict[int, list[str]], res: dict[int, list[str]]) -> Any:
        return Bleu(4).compute_score(gts, res, verbose=0)

    values = {f"bleu{order}": float(value) for order, value in enumerate(_run(bleu, hypotheses, targets), start=1)}
    values["rouge_l"] = float(_run(Rouge().compute_score, hypotheses, targets))
    values["cider"] = float(_run(Cider().compute_score, hypotheses, targets))
    return values


def _run(scorer: Callable[..., Any], hypotheses: list[str], targets: list[list[str]]) -> Any:
    """The score of the whole set by one of pycocoevalcap's scorers."""
    return scorer(dict(enumerate(targets)), {index: [caption] for index, caption in enumerate(hypotheses)})[0]
