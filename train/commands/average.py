"""``camscribe average CHECKPOINT... --out FILE``: the mean of several checkpoints' weights, as one checkpoint.

Checkpoints of one run, before and after self-critical training among them, lie in one basin: their mean captions
unseen images better than each of them (Wortsman et al. 2022, "Model soups" and "Robust fine-tuning of zero-shot
models"). For the same reason what a training changed can be added to other weights (--plus FROM TO adds TO - FROM),
which so learn what it taught without going through it (Ilharco et al. 2023, "Editing models with task arithmetic").
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from camscribe.runtime.commands.arguments import Parser
from camscribe.runtime.errors import DataError
from camscribe.runtime.files import make_folder
from camscribe.train.checkpoint import Checkpoint
from camscribe.train.config import differences

_FREE = {"weights", "dropout", "detector", "image_height", "image_width", "no_repeat", "no_stutter"}
"""Keys of [model] that no weight hangs on, in which checkpoints may differ."""


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    parser = Parser(prog="camscribe average", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT", help="one named twice counts twice")
    parser.add_argument(
        "--plus",
        nargs=2,
        type=Path,
        metavar=("FROM", "TO"),
        help="add to the mean what a training from FROM to TO changed (Ilharco et al. 2023)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the checkpoint to write")
    options = parser.parse_args(argv)
    make_folder(options.out.parent, "--out")
    average(options.checkpoints, options.plus).save(options.out)
    count = len(options.checkpoints)
    what = f"the mean of {count} checkpoints" if count > 1 else "one checkpoint"
    if options.plus:
        what += ", plus what changed from {} to {}".format(*options.plus)
    print(f"wrote {options.out}, {what}")
    return 0


def average(paths: Sequence[Path], plus: Sequence[Path] | None = None) -> Checkpoint:
    """The mean of checkpoints; what is said of the run is the last one's.

    Of a checkpoint that resumes, the running average of the weights is taken, as validation does.

    Args:
        paths: one or more.
        plus: checkpoints before and after a training, whose difference is added.

    Raises:
        DataError: a checkpoint cannot be read, or is of another model or vocabulary than the others.
    """
    paths = [*paths, *(plus or ())]
    checkpoints = [Checkpoint.load(path) for path in paths]
    weights = [checkpoint.weights for checkpoint in checkpoints]
    for path, checkpoint, tensors in zip(paths, checkpoints, weights, strict=True):
        same = checkpoint.meta.get("vocabulary") == checkpoints[0].meta.get("vocabulary")
        shapes = {name: value.shape for name, value in tensors.items()}
        if not same or shapes != {name: value.shape for name, value in weights[0].items()}:
            raise DataError(
                f"{path}: is of another model or vocabulary than {paths[0]}; average checkpoints of one run"
            )
        apart = differences(_table(checkpoint), _table(checkpoints[0]))
        if apart:
            raise DataError(
                f"{path}: is of another model than {paths[0]}: [model] differs in {apart}; average "
                "checkpoints of one run"
            )
    count = len(paths) - len(plus or ())
    made = {
        f"model.{name}": _mean(
            [tensors[name] for tensors in weights[:count]], *(tensors[name] for tensors in weights[count:])
        )
        for name in weights[0]
    }
    parts = [_named(path, checkpoint) for path, checkpoint in zip(paths, checkpoints, strict=True)]
    said = {name: value for name, value in checkpoints[count - 1].meta.items() if name not in ("schema", "plus")}
    return Checkpoint(made, {**said, "averaged": parts[:count], **({"plus": parts[count:]} if plus else {})})


def _table(checkpoint: Checkpoint) -> dict[str, Any]:
    """The [model] of a checkpoint, but for what no weight hangs on; shapes need not show all of it, such as heads."""
    table: dict[str, Any] = checkpoint.meta.get("config", {}).get("model", {})
    return {name: value for name, value in table.items() if name not in _FREE}


def _mean(tensors: Sequence[torch.Tensor], *change: torch.Tensor) -> torch.Tensor:
    """The mean, plus what lies between the two tensors of a change; of bytes (a detector's file) the first."""
    if not tensors[0].is_floating_point():
        return tensors[0]
    mean = torch.stack(list(tensors)).mean(dim=0)
    return mean + (change[1] - change[0]) if change else mean


def _named(path: Path, checkpoint: Checkpoint) -> dict[str, Any]:
    progress = checkpoint.meta["progress"]
    return {
        "checkpoint": f"{path.resolve().parent.name}/{path.name}",
        "stage": progress["stage"],
        "epoch": progress["epoch"],
    }
