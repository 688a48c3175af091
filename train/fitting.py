"""Weights that must fit the model they are loaded into, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from camscribe.runtime.errors import DataError


def load_fitting(
    model: nn.Module, tensors: dict[str, Tensor], refusal: str, may_miss: Callable[[str], bool] = lambda _: False
) -> None:
    """Loads weights by name.

    Args:
        model: takes them.
        tensors: all of them.
        refusal: how the error begins.
        may_miss: names of the model's that need not be among them.

    Raises:
        DataError: some are missing, unknown or of another shape.
    """
    wanted = model.state_dict()
    missing = [key for key in wanted if key not in tensors and not may_miss(key)]
    extra = [key for key in tensors if key not in wanted]
    other = [key for key in wanted if key in tensors and tensors[key].shape != wanted[key].shape]
    if missing or extra or other:
        raise DataError(
            f"{refusal}: {len(missing)} tensors missing {missing[:3]}, {len(extra)} unknown {extra[:3]}, "
            f"{len(other)} of another shape {other[:3]}"
        )
    model.load_state_dict(tensors, strict=False)
