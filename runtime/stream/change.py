"""Whether a scene has changed, so that a caption need not be made where nothing happens."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from camscribe.runtime.pixels import opencv
from camscribe.runtime.stream.frame import Frame

THRESHOLD = 10.0
"""Default of ``--change-threshold``, in levels of 255."""
_COLUMNS, _ROWS = 16, 12
_PART = 0.1


class SceneChange:
    """Compares frames with the last one that was captioned.

    A frame is reduced to 16 x 12 means of brightness, which noise does not reach. The measure of change is the mean
    difference, in levels of 255, of the tenth of these cells that differ most: so a person who enters at the edge
    counts as much as a camera that turns.

    Args:
        threshold: from this on a scene counts as changed; 0 always does.
    """

    def __init__(self, threshold: float = THRESHOLD) -> None:
        self.threshold = threshold
        self._before: npt.NDArray[np.float32] | None = None

    def look(self, frame: Frame) -> bool:
        """Whether the scene is another than at the last True."""
        cells = _cells(frame)
        if self._before is not None and difference(cells, self._before) < self.threshold:
            return False
        self._before = cells
        return True


def difference(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    """The measure of change between two arrays of cells."""
    values = np.sort(np.abs(one - other), axis=None)
    return float(values[-round(_PART * values.size) :].mean())


def _cells(frame: Frame) -> npt.NDArray[np.float32]:
    """float32 [12, 16]: means of brightness."""
    pixels = frame.pixels
    if frame.color == "nv12":
        pixels = pixels[: pixels.shape[0] * 2 // 3]
    if pixels.ndim == 3:
        pixels = pixels[:, :, 1]  # green is most of brightness
    cv2 = opencv()
    cells: npt.NDArray[np.uint8] = cv2.resize(pixels, (_COLUMNS, _ROWS), interpolation=cv2.INTER_AREA)
    return cells.astype(np.float32)
