"""The command line's options of guided searches."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from camscribe.runtime.guided.options import OwnChanges


def add_guided_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what ``GuidedOptions`` has besides ``SearchOptions``. All of it is off unless asked for."""
    group = parser.add_argument_group(
        "guided search",
        "Off by default. With any of these but --length-rule the host selects, not the graph, which takes longer: "
        "--verbose says how long.",
    )
    group.add_argument(
        "--length-rule",
        choices=("power", "gnmt"),
        help="score = log-probability / words**A, the average at A = 1 (power), or / ((5 + words) / 6)**A (gnmt, Wu et "
        "al. 2016)",
    )
    group.add_argument(
        "--no-repeat", type=int, metavar="N", help="no N words in a row are said twice (Paulus et al. 2017, with 3)"
    )
    group.add_argument(
        "--no-bad-endings",
        action="store_true",
        default=None,
        help='no caption ends behind "a", "with" and their like (as in ruotianluo\'s self-critical.pytorch)',
    )
    group.add_argument(
        "--contain",
        action="append",
        metavar="WORD",
        help="a word that the caption must have, dog|dogs for one of two; may be given often (Anderson et al. 2017)",
    )
    group.add_argument(
        "--groups",
        type=int,
        metavar="G",
        help="groups of beams that avoid each other's words; --nbest G gives each one's best (Vijayakumar et al. 2018)",
    )
    group.add_argument(
        "--diversity",
        type=float,
        metavar="D",
        help="cost of a word for each earlier group that says it (default: 0.5)",
    )
    group.add_argument(
        "--sample",
        action="store_true",
        default=None,
        help="draw as many captions as there are beams, and rank them (Graves 2013)",
    )
    group.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="of the draws; below 1: likelier words (Ackley et al. 1985; default: 1)",
    )
    group.add_argument("--top-k", type=int, metavar="K", help="draw from the K likeliest words (Fan et al. 2018)")
    group.add_argument(
        "--top-p", type=float, metavar="P", help="draw from the likeliest words of probability P (Holtzman et al. 2020)"
    )
    group.add_argument("--seed", type=int, metavar="N", help="of the draws (default: 0)")


def guided_changes(options: argparse.Namespace) -> OwnChanges:
    """What ``add_guided_arguments`` was given; None for what was not."""
    return {
        "length_rule": options.length_rule,
        "no_repeat": options.no_repeat,
        "no_bad_endings": options.no_bad_endings,
        "contain": None if options.contain is None else tuple(options.contain),
        "groups": options.groups,
        "diversity": options.diversity,
        "sample": options.sample,
        "temperature": options.temperature,
        "top_k": options.top_k,
        "top_p": options.top_p,
        "seed": options.seed,
    }
