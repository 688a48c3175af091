"""Generators from checkpoints, and between two of them."""

from __future__ import annotations

from camscribe.runtime.errors import DataError
from camscribe.train.checkpoint import Checkpoint
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
    try:
        generator.load_state_dict({**checkpoint.of("model."), **checkpoint.of("average.")})
    except RuntimeError as error:
        raise DataError(f"{where}: does not fit its own configuration: {' '.join(str(error).split())}") from error
    return generator.eval()
