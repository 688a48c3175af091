"""Draws docs/images/enhance.jpg: crops of photographs in examples/, a row each: bicubic, PSNR, GAN, truth.

python docs/enhance_pictures.py

The photographs are halved first (they were JPEG files), then reduced by 4 as the enhancer's training reduces.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from camscribe.runtime.enhancer import Enhancer
from camscribe.runtime.images import read
from camscribe.train.superres.resize import resize

ROOT = Path(__file__).resolve().parents[1]
CROPS = (("retriever", 24, 60), ("astronaut", 12, 84), ("horses", 40, 60), ("two_dogs", 30, 60), ("musicians", 30, 100))
"""Photograph, and top and left of its crop after halving."""
SIDE, SHOWN, GAP, HEAD = 120, 240, 6, 30
"""Of a crop, of it in the picture (enlarged without smoothing), between crops, above them: pixels."""


def main() -> int:
    """Draws the picture; returns the exit status."""
    enhancers = {name: Enhancer.load(backend="cpu", precision="float32", variant=name) for name in ("psnr", "gan")}
    titles = ("bicubic", "PSNR network", "GAN network", "truth")
    columns, rows = len(titles), len(CROPS)
    sheet = Image.new("RGB", (columns * (SHOWN + GAP) - GAP, HEAD + rows * (SHOWN + GAP) - GAP), (255, 255, 255))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(18)
    for column, title in enumerate(titles):
        draw.text((column * (SHOWN + GAP) + SHOWN / 2, HEAD / 2), title, (30, 30, 30), font, anchor="mm")
    for row, (name, top, left) in enumerate(CROPS):
        truth = resize(read(ROOT / "examples" / f"{name}.jpg"), 0.5)
        truth = truth[: truth.shape[0] // 4 * 4, : truth.shape[1] // 4 * 4]
        small = resize(truth, 0.25)
        views = (resize(small, 4.0), *(enhancer.enlarge(small) for enhancer in enhancers.values()), truth)
        for column, view in enumerate(views):
            crop = Image.fromarray(np.ascontiguousarray(view[top : top + SIDE, left : left + SIDE]))
            crop = crop.resize((SHOWN, SHOWN), Image.Resampling.NEAREST)
            sheet.paste(crop, (column * (SHOWN + GAP), HEAD + row * (SHOWN + GAP)))
    sheet.save(ROOT / "docs" / "images" / "enhance.jpg", quality=88)
    return 0


if __name__ == "__main__":
    sys.exit(main())
