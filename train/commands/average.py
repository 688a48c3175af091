"""``camscribe average CHECKPOINT... --out FILE``: the mean of several checkpoints' weights, as one checkpoint.

Checkpoints of one run, before and after self-critical training among them, lie in one basin: their mean captions unseen
images better than each of them (Wortsman et al. 2022, "Model soups" and "Robust fine-tuning of zero-shot models").
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from camscribe.runtime.commands.arguments import Parser
from camscribe.runtime.errors import DataError
from camscribe.train.checkpoint import Checkpoint


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    parser = Parser(prog="camscribe average", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT", help="one named twice counts twice")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the checkpoint to write")
    options = parser.parse_args(argv)
    average(options.checkpoints).save(options.out)
    print(f"wrote {options.out}, the mean of {len(options.checkpoints)} checkpoints")
    return 0


def average(paths: Sequence[Path]) -> Checkpoint:
    """The mean of checkpoints; what is said of the run is the last one's.

    Of a checkpoint that resumes, the running average of the weights is taken, as validation does.

    Raises:
        DataError: a checkpoint cannot be read, or is of another model or vocabulary than the others.
    """
    checkpoints = [Checkpoint.load(path) for path in paths]
    weights = [{**checkpoint.of("model."), **checkpoint.of("average.")} for checkpoint in checkpoints]
    for path, checkpoint, tensors in zip(paths, checkpoints, weights, strict=True):
        same = checkpoint.meta.get("vocabulary") == checkpoints[0].meta.get("vocabulary")
        shapes = {name: value.shape for name, value in tensors.items()}
        if not same or shapes != {name: value.shape for name, value in weights[0].items()}:
            raise DataError(
                f"{path}: is of another model or vocabulary than {paths[0]}; average checkpoints of one run"
            )
    mean = {f"model.{name}": _mean([tensors[name] for tensors in weights]) for name in weights[0]}
    parts = [
        {
            "checkpoint": f"{path.resolve().parent.name}/{path.name}",
            "stage": checkpoint.meta["progress"]["stage"],
            "epoch": checkpoint.meta["progress"]["epoch"],
        }
        for path, checkpoint in zip(paths, checkpoints, strict=True)
    ]
    return Checkpoint(mean, {**{k: v for k, v in checkpoints[-1].meta.items() if k != "schema"}, "averaged": parts})


def _mean(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """The mean; of bytes (a detector's file) the first."""
    return torch.stack(list(tensors)).mean(dim=0) if tensors[0].is_floating_point() else tensors[0]
