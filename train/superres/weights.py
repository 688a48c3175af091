"""Generators from checkpoints, and between two of them."""

from __future__ import annotations

import torch

from camscribe.runtime.errors import DataError, OptionError
from camscribe.train.checkpoint import Checkpoint
from camscribe.train.config import differences
from camscribe.train.superres.config import Config, from_dict
from camscribe.train.superres.generator import Generator


def config_of(checkpoint: Checkpoint, where: str = "checkpoint") -> Config:
    """The configuration that a generator's run was started with.

    Raises:
        DataError: the checkpoint is of another task.
    """
    if checkpoint.task != "super_resolution":
        raise DataError(f"{where}: is of task {checkpoint.task}; expected a generator's, of task super_resolution")
    return from_dict(checkpoint.meta["config"], where=f"{where}: its configuration")


def load_generator(checkpoint: Checkpoint, where: str = "checkpoint") -> Generator:
    """The generator, in evaluation mode; of a checkpoint that resumes, with the running average of its weights.

    Raises:
        DataError: the checkpoint is of another task, or its tensors do not fit its configuration.
    """
    generator = Generator(config_of(checkpoint, where).model)
    found, wanted = checkpoint.weights, generator.state_dict()
    problems = {
        "missing": [name for name in wanted if name not in found],
        "unknown": [name for name in found if name not in wanted],
        "of another shape": [name for name in wanted if name in found and found[name].shape != wanted[name].shape],
    }
    if any(problems.values()):
        said = ", ".join(f"{len(names)} tensors {what} ({names[0]})" for what, names in problems.items() if names)
        raise DataError(
            f"{where}: does not fit its own configuration, a generator {generator.config.generator!r}: {said}"
        )
    generator.load_state_dict(found)
    return generator.eval()


def blend(first: tuple[Checkpoint, str], second: tuple[Checkpoint, str], share: float) -> tuple[Checkpoint, Generator]:
    """Network interpolation (Wang et al. 2018, sec. 3.4): between the weights of two networks of one origin.

    Args:
        first: a checkpoint (the PSNR-oriented network) and what messages call it.
        second: another (the GAN), trained on from the first.
        share: of the second, 0 to 1.

    Returns:
        The second's checkpoint with a note of the blend, and the generator between the two.

    Raises:
        OptionError: ``share`` has no meaning.
        DataError: the checkpoints are of different generators.
    """
    if not 0 <= share <= 1:
        raise OptionError(f"a blend of {share}; expected 0 (the first network alone) to 1 (the second alone)")
    made, other = (load_generator(checkpoint, where) for checkpoint, where in (first, second))
    apart = differences(vars(other.config), vars(made.config))
    if apart:
        raise DataError(f"{second[1]}: is of another generator than {first[1]}: [model] differs in {apart}")
    weights = other.state_dict()
    with torch.no_grad():
        for name, value in made.state_dict().items():
            if value.is_floating_point():
                value.lerp_(weights[name], share)
    blended = [{"network": "first", "share": 1 - share}, {"network": "second", "share": share}]
    return Checkpoint(second[0].tensors, {**second[0].meta, "blended": blended}), made
