"""The tutorial's model exported to ONNX as it is, and a beam search by hand around it: what people write.

Two graphs come straight out of ``torch.onnx.export`` in float32: the encoder with the initial states, and the
tutorial's decoder step, which takes the encoder's features once for every beam, [k, P, D], and projects them for the
attention anew at each step. Both run by ``session.run`` with NumPy arrays.

So that it is a well-written version: the step ends in log-probabilities, so that no softmax is left for the host;
features are spread to all beams once for each image, and fewer beams get a slice of them without a copy; pixels are
scaled in one pass; states are gathered for the beams that live on, and nothing else is copied. The search is that of
``host_search``, which also keeps the bundle's ``no_repeat``. Sessions are ONNX Runtime's own but for the number of
threads; ``exported_tuned`` has our options.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from camscribe.benchmarks.peers import missing
from camscribe.benchmarks.peers.host_search import HostSearch
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.errors import EngineError
from camscribe.runtime.manifest import Device
from camscribe.runtime.onnxruntime_executor import open_session
from camscribe.runtime.pixels import Pixels
from camscribe.runtime.search import SearchOptions

OPSET = 18


def why_not(bundle: Bundle, checkpoint: Path | None) -> str | None:
    """See ``Peer``."""
    return missing("torch", "torchvision", "safetensors", "onnx", "onnxscript", "onnxruntime")


def open_peer(
    bundle: Bundle,
    checkpoint: Path | None,
    options: SearchOptions,
    threads: int,
    *,
    tuned: bool = False,
    device: Device = "cpu",
) -> HostSearch:
    """See ``Peer``. Exports, which takes some seconds.

    Args:
        bundle, checkpoint, options, threads: see ``Peer``.
        tuned: open the sessions with the options of our executor.
        device: where the graphs run; ``cuda`` only with ``tuned``.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = export(bundle, checkpoint, Path(folder))
        return open_files(files, bundle, options, threads, tuned=tuned, device=device)


def open_files(
    files: tuple[Path, Path],
    bundle: Bundle,
    options: SearchOptions,
    threads: int,
    *,
    tuned: bool = False,
    device: Device = "cpu",
) -> HostSearch:
    """The search over what ``export`` wrote, which may be gone afterwards; see ``open_peer``."""
    encoder, decoder = (
        open_session(file, device, threads, steps=steps) if tuned else _plain(file, threads)
        for file, steps in zip(files, (False, True), strict=True)
    )
    architecture = bundle.manifest.architecture
    network = _Exported(encoder, decoder, options.beams, architecture["backbone"])
    return HostSearch(network, bundle, options, architecture.get("no_repeat", 0))


def _plain(file: Path, threads: int) -> Any:
    """A session as ONNX Runtime makes it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def export(bundle: Bundle, checkpoint: Path | None, folder: Path) -> tuple[Path, Path]:
    """Writes the tutorial's encoder and decoder step with the bundle's weights.

    ``encoder.onnx``: image [1, 3, h, w], normalised -> features [1, P, D], h and c [1, H].
    ``decoder.onnx``: word [k, 1], features [k, P, D], h and c [k, H] -> log_prob [k, V], attention [k, P], h and c.

    Args:
        bundle, checkpoint: see ``Peer``.
        folder: where both are written.

    Returns:
        Both files.

    Raises:
        EngineError: PyTorch cannot export it.
    """
    import torch
    from torch import Tensor, nn

    from camscribe.benchmarks.peers.bundle_weights import weights_for

    tutorial = weights_for(bundle, checkpoint).tutorial()

    class WithStates(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = tutorial.encoder, tutorial.decoder

        def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            features = self.encoder(image).flatten(1, 2)
            return features, *self.decoder.init_hidden_state(features)

    spec = bundle.manifest.pixels
    encoder = WithStates().eval()
    image = torch.zeros(1, 3, spec.height, spec.width)
    with torch.no_grad():
        features, hidden, cell = (item.repeat(2, *[1] * (item.dim() - 1)) for item in encoder(image))
    word = torch.zeros(2, 1, dtype=torch.int64)
    k = torch.export.Dim("k", min=1, max=64)
    files = folder / "encoder.onnx", folder / "decoder.onnx"
    options: dict[str, Any] = {"opset_version": OPSET, "dynamo": True, "verbose": False}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # of PyTorch about itself
            names = {"input_names": ["image"], "output_names": ["features", "h", "c"]}
            torch.onnx.export(encoder, (image,), files[0], **names, **options)
            names = {"input_names": ["word", "features", "h", "c"]}
            names |= {"output_names": ["log_prob", "attention", "next_h", "next_c"]}
            shapes = tuple({0: k} for _ in names["input_names"])
            inputs = (word, features, hidden, cell)
            torch.onnx.export(tutorial.decoder, inputs, files[1], dynamic_shapes=shapes, **names, **options)
    except Exception as error:  # the exporter's errors have no base of their own
        line = " ".join(str(error).split())[:300]
        raise EngineError(
            f"the tutorial's model cannot be exported with PyTorch {torch.__version__}: {line}"
        ) from error
    return files


class _Exported:
    """Sessions of both graphs; see ``Network``."""

    def __init__(self, encoder: Any, decoder: Any, beams: int, backbone: str) -> None:
        from camscribe.benchmarks.peers.tutorial_weights import pixel_statistics

        self._encoder, self._decoder, self._beams = encoder, decoder, beams
        mean, std = (np.array(numbers, np.float32) for numbers in pixel_statistics(backbone))
        self._scale, self._shift = 1 / (255 * std), -mean / std
        empty = np.zeros((0, 0), np.float32)
        self._features, self._hidden, self._cell = empty, empty, empty

    def start(self, pixels: Pixels) -> None:
        image = pixels * self._scale
        image += self._shift
        batch = np.ascontiguousarray(image.transpose(2, 0, 1))[None]
        features, self._hidden, self._cell = self._encoder.run(["features", "h", "c"], {"image": batch})
        self._features = features.repeat(self._beams, axis=0)

    def step(self, words: list[int]) -> npt.NDArray[np.float32]:
        feeds = {"word": np.array(words, np.int64)[:, None], "features": self._features[: len(words)]}
        feeds |= {"h": self._hidden, "c": self._cell}
        log_prob, self._hidden, self._cell = self._decoder.run(["log_prob", "next_h", "next_c"], feeds)
        made: npt.NDArray[np.float32] = log_prob
        return made

    def keep(self, parents: list[int]) -> None:
        self._hidden, self._cell = self._hidden[parents], self._cell[parents]
