"""How an environment gets one of the extras for a GPU."""

from __future__ import annotations


def install_for_gpu(extra: str) -> str:
    """The commands, in words: onnxruntime, which came with ``cpu``, and onnxruntime-gpu break each other."""
    return f'pip uninstall onnxruntime, then pip install "camscribe[{extra}]"'
