"""Checkpoints: one safetensors file with JSON in its header, written whole or not at all. No pickle."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from camscribe.runtime.errors import DataError
from camscribe.runtime.vocab import Vocabulary
from camscribe.train.config import Config, from_dict
from camscribe.train.model import Captioner

_SCHEMA = 1


@dataclass
class Checkpoint:
    """Tensors, by a dotted prefix that says whose they are (``model.``, ``average.``, ``optimizer.``, ``rng.``)."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]
    """JSON-able: ``config``, ``vocabulary`` (tokens), ``progress``, ``history``."""
    path: Path | None = None
    """The file that it was read from, which errors name."""

    def of(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under ``prefix``, without it."""
        return {name[len(prefix) :]: value for name, value in self.tensors.items() if name.startswith(prefix)}

    def save(self, path: Path) -> None:
        """Writes the file; a kill or a full disk leaves the old one in place."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        text = json.dumps({"schema": _SCHEMA, **self.meta})
        try:
            save_file(
                {name: value.detach().cpu().contiguous() for name, value in self.tensors.items()},
                part,
                metadata={"camscribe": text},
            )
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            part.replace(path)
        except (OSError, SafetensorError) as error:  # safetensors hides the OSError of a full disk in its own
            part.unlink(missing_ok=True)
            raise DataError(f"{path}: cannot be written ({error}); the checkpoint before it is kept") from error

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Reads a checkpoint.

        Raises:
            DataError: the file is missing, damaged, or not a camscribe checkpoint of this schema.
        """
        if path.is_dir():
            raise DataError(f"{path}: is a folder; expected a file such as best.safetensors in it")
        try:
            with safe_open(path, framework="pt") as file:
                meta = json.loads((file.metadata() or {}).get("camscribe", "null"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        except (OSError, SafetensorError, ValueError) as error:
            raise DataError(f"{path}: cannot be read as a checkpoint ({error})") from error
        if not isinstance(meta, dict) or meta.get("schema") != _SCHEMA:
            raise DataError(f"{path}: is not a camscribe checkpoint of schema {_SCHEMA}; expected one made by 'train'")
        return cls(tensors, meta, path)

    @property
    def _where(self) -> str:
        """What errors call it."""
        return str(self.path or "checkpoint")

    @property
    def weights(self) -> dict[str, Tensor]:
        """The model's tensors: of what was trained last, where the file holds it, the average, which is validated."""
        return {**self.of("model."), **self.of("average.")}

    @property
    def task(self) -> str:
        """What was trained: ``captioning``, ``super_resolution`` or ``detection``."""
        return str(self.meta.get("config", {}).get("task", "captioning"))

    @property
    def config(self) -> Config:
        """The configuration that the run of a captioner was started with.

        Raises:
            DataError: the checkpoint is of another task.
        """
        if self.task != "captioning":
            hint = ' (a captioner with encoder = "faster_rcnn" takes it as weights)' if self.task == "detection" else ""
            raise DataError(f"{self._where}: is of task {self.task}; expected a captioner's{hint}")
        return from_dict(self.meta["config"], where=f"{self._where}: its configuration")

    @property
    def vocabulary(self) -> Vocabulary:
        """The model's words."""
        return Vocabulary(self.meta["vocabulary"])

    def model(self) -> Captioner:
        """The captioner, in evaluation mode, with the checkpoint's weights.

        Raises:
            DataError: the tensors do not fit the configuration.
        """
        model = Captioner(len(self.meta["vocabulary"]), self.config.model, weights="none")
        try:
            model.load_state_dict(self.weights)
        except RuntimeError as error:
            raise DataError(
                f"{self._where}: does not fit its own configuration: {' '.join(str(error).split())}"
            ) from error
        return model.eval()
