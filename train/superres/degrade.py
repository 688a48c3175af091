"""What a camera does to a patch: blur, reduction, noise, JPEG."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageFilter

from camscribe.runtime.pixels import Pixels
from camscribe.train.superres.config import DataConfig
from camscribe.train.superres.resize import resize


def camera(large: Pixels, scale: int, config: DataConfig, generator: np.random.Generator) -> Pixels:
    """uint8 [scale h, scale w, 3] -> [h, w, 3]: blurred, reduced, noisy and compressed, each as strong as drawn."""
    blur = scale * config.blur * generator.random()
    blurred = np.asarray(Image.fromarray(large).filter(ImageFilter.GaussianBlur(blur)))
    small = resize(blurred, 1 / scale).astype(np.float64)
    small += generator.normal(0, 1, small.shape) * config.noise * generator.random()
    quality = int(generator.integers(min(config.jpeg_quality, 95), 96))
    file = io.BytesIO()
    Image.fromarray(np.clip(small.round(), 0, 255).astype(np.uint8)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))
