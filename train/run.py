"""What training runs share: folder, log, checkpoints that resume exactly, a running average of the weights."""

from __future__ import annotations

import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

import lightning_fabric
import numpy as np
import torch
from torch import Tensor, nn

from camscribe.runtime.errors import DataError, OptionError
from camscribe.train.checkpoint import Checkpoint

T = TypeVar("T")


@dataclass
class Position:
    """Where a run is; part of every checkpoint."""

    stage: int = 0
    epoch: int = 0
    step: int = 0
    """Steps of this epoch that are done."""
    best: float = -math.inf
    """Best score of this stage on the tuning images."""
    waited: int = 0
    """Validations since then."""
    seconds: float = 0.0
    """Time this stage has trained for, where its length is a time."""


class Run(ABC):
    """A training run in a folder: ``last.safetensors`` (resumes), ``stage-N.safetensors`` (best weights of a stage),
    ``best.safetensors`` (the one to export) and ``metrics.jsonl``.

    A child sets ``model`` and fills ``average``; everything that changes while training is in the checkpoint.

    Args:
        config: the whole run.
        folder: the run's folder; continued when it holds a checkpoint of the same configuration.
        fabric: launched by the caller.

    Raises:
        DataError: the folder holds a run of another configuration.
    """

    model: nn.Module

    def __init__(self, config: Any, folder: Path, fabric: lightning_fabric.Fabric) -> None:
        self.config, self.folder, self.fabric = config, folder, fabric
        self.position = Position()
        self.history: list[dict[str, Any]] = []
        self.average: dict[str, Tensor] = {}
        """Exponential average of the trained weights, by their names."""
        last = folder / "last.safetensors"
        self._resumed = Checkpoint.load(last) if last.exists() else None
        if self._resumed:
            if self._config_of(self._resumed) != config:
                raise DataError(
                    f"{last}: was made with another configuration; continue with that one or name a new folder"
                )
            self.position = Position(**self._resumed.meta["progress"])
            self.history = self._resumed.meta["history"]

    @staticmethod
    @abstractmethod
    def _config_of(checkpoint: Checkpoint) -> Any:
        """The configuration that a checkpoint of this kind of run was started with."""

    @abstractmethod
    def _meta(self) -> dict[str, Any]:
        """What a checkpoint says of itself."""

    @abstractmethod
    def _run_stage(self, stage: Any, index: int) -> None:
        """Runs (or goes on with) one stage."""

    def run(self) -> Path:
        """Runs (or goes on with) all stages; returns the best checkpoint."""
        for index in range(self.position.stage, len(self.config.stage)):
            if index != self.position.stage:
                self.position = Position(stage=index)
            self._run_stage(self.config.stage[index], index)
        return self.folder / "best.safetensors"

    # -- the running average ------------------------------------------------------------------------------------------

    def _trained_tensors(self) -> list[tuple[str, Tensor]]:
        return [(name, value) for name, value in self.model.named_parameters() if value.requires_grad]

    def _start_average(self) -> None:
        self.average = {name: value.detach().clone() for name, value in self._trained_tensors()}

    @torch.no_grad()
    def _update_average(self, decay: float, done: int) -> None:
        decay = min(decay, (1 + done) / (10 + done))
        torch._foreach_lerp_(list(self.average.values()), [value for _, value in self._trained_tensors()], 1 - decay)

    @torch.no_grad()
    def _put(self, tensors: dict[str, Tensor]) -> None:
        for name, value in self._trained_tensors():
            value.copy_(tensors[name])

    def _is_over(self, stage: Any, score: str) -> bool:
        """Whether a stage has waited for a better score as long as its ``patience`` allows; says so.

        Asked before each epoch, so that a run that was killed after its stage had ended goes on with the next one.
        """
        # Only the first process validates, and so knows how long it has waited.
        if not stage.patience or self._agreed(self.position.waited) < stage.patience:
            return False
        self._say(f"{stage.name}: no better {score} in {stage.patience} validations")
        return True

    def _agreed(self, value: T) -> T:
        """The first process's value, which decides for all: where one goes on alone, all wait for ever."""
        return self.fabric.broadcast(value) if self.fabric.world_size > 1 else value

    def _saver(self) -> Interval:
        """Of checkpoints."""
        return Interval(self.config.checkpoint_seconds, self._agreed)

    def _clip(self, stage: Any, module: nn.Module, optimizer: Any) -> None:
        """Clips gradients to the stage's ``gradient_clip``.

        Raises:
            DataError: they are no numbers any more; nothing has been changed by them.
        """
        most = stage.gradient_clip or math.inf
        norm = self.fabric.clip_gradients(module, optimizer, max_norm=most, error_if_nonfinite=False)
        # With 16-mixed such a step is part of finding the scale of the loss, and is left out.
        if norm is not None and not torch.isfinite(norm) and self.config.precision != "16-mixed":
            raise DataError(
                f"stage {stage.name}, step {self.position.step + 1}: the gradient is {float(norm)}; lower its "
                "learning_rate and begin a new run"
            )

    # -- the run's folder ---------------------------------------------------------------------------------------------

    def _stage_file(self, index: int) -> Path:
        return self.folder / f"stage-{index}.safetensors"

    def _begin_stage(self, index: int) -> Checkpoint | None:
        """Loads the weights that a stage begins with; returns the checkpoint that it goes on from, if it does."""
        resumed, self._resumed = self._resumed, None
        if resumed:
            self.model.load_state_dict(resumed.of("model."))
        elif index:
            self.model.load_state_dict(Checkpoint.load(self._stage_file(index - 1)).of("model."))
        return resumed

    def _judge(self, index: int, score: str, value: float) -> bool:
        """Keeps the model where no validation of its stage had as high a ``score``; returns whether none of the run."""
        self.position.waited += 1
        if not value > self.position.best:  # also where it is no number
            return False
        self.position.best, self.position.waited = value, 0
        best = self._is_best(score)
        self._save_stage(index, best)
        return best

    def _check_batches(self) -> None:
        """Refuses batches that the processes cannot share evenly.

        Raises:
            OptionError: there is one.
        """
        for stage in self.config.stage:
            if stage.batch % self.fabric.world_size:
                raise OptionError(f"stage {stage.name}: batch is {stage.batch}; expected a multiple of the processes")

    def _is_best(self, score: str) -> bool:
        """Whether no validation of the run before the last one had as high a ``score``."""
        earlier = [entry[score] for entry in self.history[:-1] if score in entry]
        return bool(self.history[-1][score] > max(earlier, default=-math.inf))

    def _save_stage(self, index: int, best: bool) -> None:
        """Keeps the model as its stage's, and as the run's where it is the ``best``."""
        kept = Checkpoint({f"model.{n}": v for n, v in self.model.state_dict().items()}, self._meta())
        kept.save(self._stage_file(index))
        if best:
            kept.save(self.folder / "best.safetensors")

    def _save(self, optimizers: Mapping[str, Any], others: Mapping[str, nn.Module] | None = None) -> None:
        """Writes ``last.safetensors``.

        Args:
            optimizers: by the prefix their states get.
            others: modules that are trained beside the model, by the prefix their weights get.
        """
        states = [_random_state(self.fabric.device)]
        if self.fabric.world_size > 1:
            states = list(self.fabric.all_gather(states[0]).to(torch.uint8).cpu())
        if self.fabric.is_global_zero:
            tensors = {f"average.{name}": value for name, value in self.average.items()}
            for prefix, module in {"model": self.model, **(others or {})}.items():
                tensors |= {f"{prefix}.{name}": value for name, value in module.state_dict().items()}
            tensors |= {f"rng.{rank}": state for rank, state in enumerate(states)}
            for prefix, optimizer in optimizers.items():
                for slot, state in optimizer.state_dict()["state"].items():
                    tensors |= {f"{prefix}.{slot}.{key}": torch.as_tensor(value) for key, value in state.items()}
            # The scale of the loss, with 16-mixed.
            scale = self.fabric._precision.state_dict()
            tensors |= {f"precision.{name}": torch.tensor(value) for name, value in scale.items()}
            Checkpoint(tensors, self._meta()).save(self.folder / "last.safetensors")
        self.fabric.barrier()

    def _restore(self, checkpoint: Checkpoint, optimizers: Mapping[str, Any]) -> None:
        for name, value in checkpoint.of("average.").items():
            self.average[name].copy_(value)
        for prefix, optimizer in optimizers.items():
            content = optimizer.state_dict()
            parameters = [value for group in optimizer.param_groups for value in group["params"]]
            state: dict[int, dict[str, Tensor]] = {}
            for name, value in checkpoint.of(f"{prefix}.").items():
                slot, key = name.split(".", 1)
                owner = parameters[int(slot)]
                # A fused optimizer reads both in the order of memory, which may be channels last.
                same = value.shape == owner.shape
                state.setdefault(int(slot), {})[key] = torch.empty_like(owner).copy_(value) if same else value
            content["state"] = state
            optimizer.load_state_dict(content)
        scale = {name: value.item() for name, value in checkpoint.of("precision.").items()}
        if scale:
            self.fabric._precision.load_state_dict(scale)
        random = checkpoint.of("rng.")
        if str(self.fabric.global_rank) in random:
            _set_random_state(random[str(self.fabric.global_rank)], self.fabric.device)

    # -- the log ------------------------------------------------------------------------------------------------------

    def _log(
        self, stage: str, logged: Iterable[Mapping[str, float]], began: float, images: int, learning_rate: float
    ) -> None:
        """Records the means of what was logged since ``began`` at ``images`` a step."""
        entries = list(logged)
        means = {name: float(np.mean([entry[name] for entry in entries])) for name in entries[0]}
        self._record(
            {
                "stage": stage,
                "epoch": self.position.epoch + 1,
                "step": self.position.step,
                **means,
                "learning_rate": learning_rate,
                "images_per_s": len(entries) * images / (time.monotonic() - began),
            }
        )

    def _record(self, entry: dict[str, Any]) -> None:
        if not self.fabric.is_global_zero:
            return
        self.history.append({"time": datetime.now(timezone.utc).isoformat(timespec="seconds"), **entry})
        text = "".join(json.dumps(line) + "\n" for line in self.history)
        part = self.folder / "metrics.part"
        part.write_text(text, encoding="utf-8")
        part.replace(self.folder / "metrics.jsonl")

    def _say(self, line: str) -> None:
        if self.fabric.is_global_zero:
            print(line, flush=True)


class Interval:
    """True once every so many seconds.

    Args:
        seconds: between two times.
        agreed: whether it is time is this of what one process's clock says.
    """

    def __init__(self, seconds: float, agreed: Callable[[bool], bool]) -> None:
        self._seconds, self._agreed, self._last = seconds, agreed, time.monotonic()

    def due(self) -> bool:
        """Whether the interval has passed; starts the next one if so."""
        if not self._agreed(time.monotonic() - self._last >= self._seconds):
            return False
        self._last = time.monotonic()
        return True


def adamw(tensors: Iterable[tuple[str, Tensor]], stage: Any, backbone: str) -> torch.optim.Optimizer:
    """AdamW over tensors with their names, with weight decay for matrices alone.

    Its groups have a ``peak``: the stage's ``backbone_learning_rate`` for names that begin with ``backbone``, else its
    ``learning_rate``.
    """
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, value in tensors:
        groups.setdefault((name.startswith(backbone), value.dim() > 1), []).append(value)
    return torch.optim.AdamW(
        [
            {
                "params": values,
                "peak": stage.backbone_learning_rate if is_backbone else stage.learning_rate,
                "weight_decay": stage.weight_decay if matrix else 0.0,
            }
            for (is_backbone, matrix), values in groups.items()
        ],
        betas=(0.9, 0.98),
    )


def learning_rate(done: int, share: float, warm_up_steps: int, final: float) -> float:
    """Share of the peak learning rate: linear warm-up, then half a cosine down to ``final``.

    Args:
        done: steps of the stage that are done.
        share: of the whole stage that is done.
        warm_up_steps: over which it rises from 0.
        final: share of the peak at the end.
    """
    warm = min(1.0, (done + 1) / max(warm_up_steps, 1))
    return warm * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))


def _random_state(device: torch.device) -> Tensor:
    state = torch.get_rng_state()
    return torch.cat([state, torch.cuda.get_rng_state(device)]) if device.type == "cuda" else state


def _set_random_state(state: Tensor, device: torch.device) -> None:
    size = torch.get_rng_state().numel()
    torch.set_rng_state(state[:size].cpu())
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[size:].cpu(), device)
