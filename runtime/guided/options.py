"""What a guided search may be told. All of it is off by default, and then the graph selects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict

from camscribe.runtime.errors import OptionError
from camscribe.runtime.search import SearchChanges, SearchOptions

LengthRule = Literal["power", "gnmt"]
MOST_BEAMS = 64
"""Beams of an executor; a search for given words needs ``beams`` for each combination of them."""


@dataclass(frozen=True)
class GuidedOptions(SearchOptions):
    """``SearchOptions`` and what research codes have besides."""

    length_rule: LengthRule = "power"
    """``power``: score / length**alpha, which is the average at alpha = 1; ``gnmt``: score / ((5 + length) / 6)**alpha
    (Wu et al. 2016, eq. 14). Costs nothing: the graph selects all the same."""
    no_repeat: int = 0
    """No n words in a row appear twice in a caption (Paulus et al. 2017, with 3); 0 switches it off."""
    no_bad_endings: bool = False
    """A caption does not end behind "a", "with" and their like (``BAD_ENDINGS``), nor is it cut there at ``max_words``
    (``remove_bad_endings`` of ruotianluo/self-critical.pytorch, which does not see to the latter)."""
    contain: tuple[str, ...] = ()
    """Words that a caption must have, ``dog|dogs`` for either of two (Anderson et al. 2017: beams for each set of words
    said so far)."""
    groups: int = 1
    """Groups of beams that avoid each other's words (Vijayakumar et al. 2018); 1 switches it off. The n best are the
    best of each group first."""
    diversity: float = 0.5
    """What a word costs a group for each earlier group that says it in the same place."""
    sample: bool = False
    """Draws as many captions as there are beams instead of searching; the n best of them are returned."""
    temperature: float = 1.0
    """Of the distribution drawn from: below 1 likelier words, above 1 rarer ones."""
    top_k: int = 0
    """Draws from the k likeliest words only (Fan et al. 2018); 0 switches it off."""
    top_p: float = 1.0
    """Draws from the likeliest words that have this probability together (Holtzman et al. 2020); 1 switches it off."""
    seed: int = 0
    """Of the draws: an image's depend on it alone, not on the other images of a batch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least, most in (("no_repeat", 0, 20), ("groups", 1, self.beams), ("top_k", 0, 1 << 20)):
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise OptionError(f"{name} is {value!r}; expected an integer from {least} to {most}")
        if type(self.seed) is not int or self.seed < 0:
            raise OptionError(f"seed is {self.seed!r}; expected an integer, 0 or more")
        for name, low, high in (("diversity", 0.0, 100.0), ("temperature", 0.01, 100.0), ("top_p", 0.001, 1.0)):
            number = getattr(self, name)
            if not isinstance(number, int | float) or not low <= number <= high:
                raise OptionError(f"{name} is {number!r}; expected a number from {low:g} to {high:g}")
        if self.length_rule not in ("power", "gnmt"):
            raise OptionError(f"length_rule is {self.length_rule!r}; expected 'power' or 'gnmt'")
        if self.beams % self.groups:
            raise OptionError(f"groups is {self.groups}; expected a divisor of beams = {self.beams}")
        for name in ("no_bad_endings", "sample"):
            if type(getattr(self, name)) is not bool:
                raise OptionError(f"{name} is {getattr(self, name)!r}; expected True or False")
        contain: object = self.contain
        if not isinstance(contain, tuple | list) or not all(isinstance(word, str) for word in contain):
            raise OptionError(f"contain is {self.contain!r}; expected a list of words")
        if self.beams << len(self.contain) > MOST_BEAMS:
            raise OptionError(
                f"contain has {len(self.contain)} words, which takes {self.beams << len(self.contain)} beams; "
                f"expected at most {MOST_BEAMS}: lower beams, or ask for fewer words"
            )
        if len(self.contain) > self.max_words:
            count = len(self.contain)
            raise OptionError(
                f"no caption is possible: contain has {count} words, max_words is {self.max_words}; raise it"
            )
        modes = [
            name
            for name, on in (("sample", self.sample), ("groups", self.groups > 1), ("contain", bool(self.contain)))
            if on
        ]
        if len(modes) > 1:
            raise OptionError(f"{' and '.join(modes)} do not go together; use one of them")
        # Nothing is passed over: who asks for these wants what they belong to.
        of_samples = ("temperature", "top_k", "top_p", "seed")
        for names, needed, on in ((of_samples, "sample", self.sample), (("diversity",), "groups", self.groups > 1)):
            idle = [name for name in names if not on and getattr(self, name) != getattr(GuidedOptions, name)]
            if idle:
                raise OptionError(f"{' and '.join(idle)} without {needed} would do nothing; ask for {needed} too")

    @property
    def on_host(self) -> bool:
        """Whether the host must select, which takes the time of a look at all words' probabilities in each step."""
        return bool(self.no_repeat or self.no_bad_endings or self.contain or self.groups > 1 or self.sample)

    def penalty(self, length: int) -> float:
        """See ``SearchOptions``."""
        if self.length_rule == "gnmt":
            return float(((5.0 + length) / 6.0) ** self.length_penalty)
        return super().penalty(length)


class OwnChanges(TypedDict, total=False):
    """The fields that ``GuidedOptions`` has of its own, for a caller to change; None changes nothing."""

    length_rule: LengthRule | None
    no_repeat: int | None
    no_bad_endings: bool | None
    contain: tuple[str, ...] | None
    groups: int | None
    diversity: float | None
    sample: bool | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    seed: int | None


class GuidedChanges(SearchChanges, OwnChanges, total=False):
    """Fields of ``GuidedOptions`` that a caller may change; None changes nothing."""
