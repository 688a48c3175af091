"""Where something is: a small detector proposes the regions that a captioner attends to.

The detector is an ONNX file with the raw outputs of YOLOX (Ge et al. 2021, arXiv 2107.08430). ONNX Runtime runs it
as it is, and it lies in the checkpoint, so that nothing else is needed to export it. What is done with its outputs
here, ``export/region_graph.py`` writes as ONNX.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from camscribe.runtime.errors import DataError
from camscribe.train.config import ModelConfig
from camscribe.train.suppression import suppress

STRIDES = (8, 16, 32)
"""Of YOLOX's grids, pixels of its input."""
CANDIDATES = 256
"""Boxes with the highest scores that non-maximum suppression looks at."""
FLOOR = 0.02
"""No box of a lower score is a region."""

REGION_SETTINGS = ("detector_side", "regions", "min_regions", "region_threshold", "region_overlap", "detector_classes")
"""Keys of the configuration that decide which regions there are."""


class Regions(NamedTuple):
    """What a detector found in images: R regions each, best first, padded with zeros."""

    boxes: Tensor
    """[B, R, 4]: left, top, right, bottom, fractions of the image."""
    shown: Tensor
    """[B, R]: 1 for a region, 0 for padding."""
    features: Tensor
    """[B, R, N]: what the finder itself knows of a region. Of a YOLOX the score of each class, of a Faster R-CNN what
    its head makes of it."""

    def to(self, device: torch.device) -> Regions:
        """The same on a device."""
        return Regions(*(each.to(device) for each in self))


class Detector(nn.Module):
    """A YOLOX in ONNX and what makes regions of its boxes.

    Kept are, of the ``CANDIDATES`` best boxes that non-maximum suppression leaves (whatever their class), those above
    the threshold, but at least ``min_regions`` and at most ``regions``, as in Anderson et al. 2018.

    Args:
        config: the model's table of the configuration.

    Raises:
        DataError: its settings have no meaning.
    """

    model: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        check_counts(config, CANDIDATES, "candidates of a YOLOX")
        self.config = config
        self.register_buffer("model", torch.zeros(0, dtype=torch.uint8))
        self._session: Any = None

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        kept = state_dict.get(f"{prefix}model")
        if kept is not None:  # its size is whatever the file's was
            self.model, self._session = torch.empty_like(kept), None
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def read(self) -> None:
        """Takes the detector from ``config.detector``; one that comes with a checkpoint needs no file.

        Raises:
            DataError: the file cannot be read, or has other inputs and outputs.
        """
        if not self.config.detector:
            raise DataError(
                'encoder = "regions" needs a detector, and model.detector is missing; expected the file of a YOLOX in '
                "ONNX"
            )
        path = Path(self.config.detector)
        try:
            model = path.read_bytes()
        except OSError as error:
            raise DataError(
                f"{path}: cannot be read as a detector ({error.strerror}); expected a YOLOX in ONNX"
            ) from error
        self.replace(_of_side(model, self.config.detector_side, path) if self.config.detector_side else model)
        self._open()

    def replace(self, model: bytes) -> None:
        """Takes another detector, an ONNX file's content."""
        self.model, self._session = torch.from_numpy(np.frombuffer(model, np.uint8).copy()), None

    @property
    def file(self) -> bytes:
        """The detector as the content of an ONNX file."""
        return self.model.cpu().numpy().tobytes()

    @property
    def width(self) -> int:
        """Width N of what it knows of a region."""
        return self.config.detector_classes

    @property
    def fingerprint(self) -> bytes:
        """All that decides what is found."""
        settings = {name: getattr(self.config, name) for name in REGION_SETTINGS}
        return json.dumps(settings).encode() + self.file

    @property
    def side(self) -> int:
        """Rows and columns of the network's input."""
        return int(self._open().get_inputs()[0].shape[2])

    @torch.no_grad()
    def forward(self, images: Tensor) -> Regions:
        """uint8 [B, H, W, 3] RGB -> regions."""
        side = self.side
        pixels = images.flip(3).permute(0, 3, 1, 2).float()
        pixels = F.interpolate(pixels, (side, side), mode="bilinear", align_corners=False)
        return self.regions(self.raw(pixels))

    def raw(self, pixels: Tensor) -> Tensor:
        """float32 [B, 3, side, side] BGR from 0 to 255 -> the network's output [B, cells, 5 + N]."""
        session = self._open()
        name = session.get_inputs()[0].name
        each = [session.run(None, {name: image[None]})[0] for image in pixels.cpu().numpy()]
        return torch.from_numpy(np.concatenate(each)).to(pixels.device)

    def regions(self, raw: Tensor) -> Regions:
        """The network's output [B, cells, 5 + N] -> regions."""
        corners, strides = (torch.from_numpy(each).to(raw) for each in cells(self.side))
        centre = (raw[:, :, :2] + corners) * strides
        half = raw[:, :, 2:4].exp() * strides / 2
        boxes = torch.cat([centre - half, centre + half], dim=2).clamp(0, 1)
        classes = raw[:, :, 4:5] * raw[:, :, 5:]
        score, order = classes.amax(dim=2).topk(min(CANDIDATES, classes.shape[1]), dim=1)
        boxes = boxes.gather(1, order.unsqueeze(2).expand(-1, -1, 4))
        classes = classes.gather(1, order.unsqueeze(2).expand(-1, -1, classes.shape[2]))
        return best_regions(boxes, score, classes, self.config, FLOOR)

    def _open(self) -> Any:
        if self._session is None:
            self._session = _session(self.file, self.config)
        return self._session


def check_counts(config: ModelConfig, most: int, what: str) -> None:
    """Refuses numbers of regions that have no meaning where there are ``most`` of ``what``.

    Raises:
        DataError: they have none.
    """
    if not 1 <= config.min_regions <= config.regions <= most:
        raise DataError(
            f"model: min_regions and regions are {config.min_regions} and {config.regions}; expected at least 1, "
            f"at most {most} ({what}), and no more of the first than of the second"
        )


def best_regions(boxes: Tensor, scores: Tensor, features: Tensor, config: ModelConfig, floor: float) -> Regions:
    """Regions of what was found [B, N, ...]: the best that no better one overlaps, those above the threshold but at
    least ``min_regions`` and at most ``regions``, and none whose score is not above ``floor``."""
    left = suppress(boxes, scores, config.region_overlap, floor, config.regions)
    score, order = (scores * left).topk(config.regions, dim=1)
    rank = torch.arange(config.regions, device=score.device)
    shown = ((score > config.region_threshold) | ((rank < config.min_regions) & (score > floor))).to(score.dtype)
    best = (each.gather(1, order.unsqueeze(2).expand(-1, -1, each.shape[2])) for each in (boxes, features))
    boxes, features = (each * shown.unsqueeze(2) for each in best)
    return Regions(boxes, shown, features)


def numbered(boxes: Tensor) -> Tensor:
    """Boxes [B, N, 4] as RoIAlign takes them: [B * N, 5], the number of the image before each."""
    index = torch.arange(boxes.shape[0], device=boxes.device, dtype=boxes.dtype).view(-1, 1, 1)
    return torch.cat([index.expand(-1, boxes.shape[1], 1), boxes], dim=2).flatten(0, 1)


def cells(side: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The cells of the three grids of a network whose input has that side: places [cells, 2] in steps of their grid,
    and those steps as fractions of the image [cells, 1]."""
    sizes = [side // stride for stride in STRIDES]
    places = [np.stack(np.meshgrid(range(size), range(size)), axis=-1).reshape(-1, 2) for size in sizes]
    steps = np.repeat([stride / side for stride in STRIDES], [size * size for size in sizes])
    return np.concatenate(places).astype(np.float32), steps[:, None].astype(np.float32)


def _of_side(model: bytes, side: int, path: Path) -> bytes:
    """The detector for another input: its layers are convolutions, which take any size."""
    if side < max(STRIDES) or side % max(STRIDES):
        raise DataError(
            f"model: detector_side is {side}; expected a multiple of {max(STRIDES)}, or 0 for the file's own"
        )
    try:
        import onnx
    except ImportError as error:
        raise DataError('detector_side needs onnx: pip install "camscribe[export]"') from error
    try:
        loaded = onnx.load_from_string(model)
        for axis in loaded.graph.input[0].type.tensor_type.shape.dim[2:]:
            axis.dim_value = side
        loaded.graph.output[0].type.tensor_type.shape.dim[1].dim_value = len(cells(side)[0])
    except Exception as error:  # protobuf's own kinds
        raise DataError(f"{path}: cannot be read as ONNX ({error})") from error
    del loaded.graph.value_info[:]
    return loaded.SerializeToString()


def _session(model: bytes, config: ModelConfig) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise DataError('regions need ONNX Runtime: pip install "camscribe[export]"') from error
    what = f"detector {Path(config.detector).name}"
    try:
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own kinds, none of which is public
        raise DataError(f"{what}: ONNX Runtime cannot open it ({' '.join(str(error).split())})") from error
    shapes = [list(each.shape) for each in (*session.get_inputs(), *session.get_outputs())]
    side = shapes[0][2] if len(shapes[0]) == 4 and isinstance(shapes[0][2], int) else 416
    wanted = [[3, side, side], [len(cells(side)[0]), 5 + config.detector_classes]]
    if [shape[1:] for shape in shapes] != wanted or side % max(STRIDES):
        raise DataError(
            f"{what}: has tensors of shapes {shapes}; expected 1 and {wanted[0]}, 1 and {wanted[1]}: a YOLOX with its "
            f"raw outputs and detector_classes = {config.detector_classes}"
        )
    return session
