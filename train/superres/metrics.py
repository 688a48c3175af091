"""PSNR and SSIM as super-resolution papers report them: luma, with a border cropped; RGB beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from camscribe.runtime.errors import DataError
from camscribe.runtime.pixels import Pixels


@dataclass(frozen=True)
class ImageScores:
    """How near an enlarged image is to the truth, its border cropped."""

    psnr_y: float
    """dB, of BT.601 luma (MATLAB's ``rgb2ycbcr``)."""
    ssim_y: float
    """Of luma."""
    psnr_rgb: float
    """dB, of the three channels together."""
    ssim_rgb: float
    """Mean over the channels."""


def luma(image: Pixels) -> npt.NDArray[np.float64]:
    """uint8 RGB [..., 3] -> BT.601 luma [...] in whole levels of 16..235, as MATLAB rounds it."""
    return np.floor(16.5 + image.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255)


def psnr(made: npt.NDArray[np.generic], truth: npt.NDArray[np.generic]) -> float:
    """Peak signal-to-noise ratio in dB, of values in 0..255; infinite where both are equal."""
    error = float(np.mean((made.astype(np.float64) - truth.astype(np.float64)) ** 2))
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def psnr_y(made: Pixels, truth: Pixels, border: int) -> float:
    """PSNR of luma in dB, ``border`` pixels of every side cropped."""
    return psnr(luma(cropped(made, border)), luma(cropped(truth, border)))


def cropped(image: Pixels, border: int) -> Pixels:
    """The image without ``border`` pixels of every side."""
    return image[border : image.shape[0] - border, border : image.shape[1] - border]


def image_scores(made: Pixels, truth: Pixels, border: int) -> ImageScores:
    """Scores of one uint8 image [H, W, 3]; SSIM is scikit-image's with the paper's window (Wang et al. 2004).

    Raises:
        DataError: the shapes differ, or nothing is left within the border.
    """
    from skimage.metrics import structural_similarity

    if made.shape != truth.shape:
        raise DataError(f"enlarged image is {made.shape}, the truth {truth.shape}; expected the same shape")
    made, truth = cropped(made, border), cropped(truth, border)
    if min(truth.shape[:2]) < 11:
        raise DataError(f"truth is {truth.shape[1]}x{truth.shape[0]} without its border; expected 11x11 or more")
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255.0}
    return ImageScores(
        psnr(luma(made), luma(truth)),
        float(structural_similarity(luma(made), luma(truth), **options)),
        psnr(made, truth),
        float(structural_similarity(made.astype(np.float64), truth.astype(np.float64), channel_axis=2, **options)),
    )
