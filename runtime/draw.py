"""A caption as a picture: the photograph, the sentence under it, and for each word where the model looked."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from camscribe.runtime.caption import Caption
from camscribe.runtime.pixels import Pixels, PixelSpec, visible_part
from camscribe.runtime.search import Floats

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

PHOTO_WIDTH, PHOTO_HEIGHT = 760, 560
"""The photograph is scaled to fit into this."""
_MARGIN, _GAP = 20, 10
_TILE_WIDTH, _TILE_HEIGHT = 144, 144
_PAPER, _INK, _PALE = (250, 249, 246), (28, 28, 30), (128, 128, 132)
_HEAT = np.array([(20, 12, 60), (120, 28, 109), (220, 70, 60), (252, 165, 10), (252, 255, 164)], np.float32)
"""Colours from no attention to most, at equal distances."""


def caption_sheet(photo: Pixels, caption: Caption, spec: PixelSpec, *, attention: bool) -> Image.Image:
    """Draws a caption.

    Args:
        photo: uint8 [h, w, 3] RGB, at any size.
        caption: of that photograph.
        spec: the bundle's, which says what part of the photograph the model saw.
        attention: adds a heat map for each word; brightness is comparable between the words of the caption.
    """
    from PIL import Image, ImageDraw

    picture = _fitted(photo, PHOTO_WIDTH, PHOTO_HEIGHT)
    width = PHOTO_WIDTH + 2 * _MARGIN
    lines = _wrapped(caption.text or "(no words)", _font(26), PHOTO_WIDTH)
    tiles = _tiles(photo, caption, spec) if attention else []
    columns = max(1, (PHOTO_WIDTH + _GAP) // (_TILE_WIDTH + _GAP))
    tile_rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    row_height = max((tile.height for _, tile in tiles), default=0) + 30
    text_top = _MARGIN + picture.height + 14
    strip_top = text_top + 36 * len(lines) + 34
    sheet = Image.new("RGB", (width, strip_top + row_height * len(tile_rows) + _MARGIN // 2), _PAPER)
    draw = ImageDraw.Draw(sheet)
    sheet.paste(picture, ((width - picture.width) // 2, _MARGIN))
    for index, line in enumerate(lines):
        draw.text((width / 2, text_top + 36 * index), line, _INK, _font(26), anchor="ma")
    note = f"score {caption.score:.2f}   log-probability {caption.log_prob:.2f}"
    draw.text((width / 2, text_top + 36 * len(lines)), note, _PALE, _font(14), anchor="ma")
    for row, items in enumerate(tile_rows):
        left = (width - len(items) * (_TILE_WIDTH + _GAP) + _GAP) // 2
        for column, (word, tile) in enumerate(items):
            x, y = left + column * (_TILE_WIDTH + _GAP), strip_top + row * row_height
            sheet.paste(tile, (x + (_TILE_WIDTH - tile.width) // 2, y))
            _label(draw, word, x + _TILE_WIDTH / 2, y + tile.height + 4)
    return sheet


def burn_in(photo: Pixels, text: npt.NDArray[np.uint8]) -> None:
    """Lays a text (see ``text_mask``) of the photograph's width over its lowest rows, which become dark.

    Args:
        photo: uint8 [h, w, 3], in any order of channels; is changed.
        text: uint8 [rows, w].
    """
    part = photo[max(0, photo.shape[0] - text.shape[0]) :]
    np.maximum(part // 3, text[-part.shape[0] :, :, None], out=part)


def text_mask(text: str, width: int) -> npt.NDArray[np.uint8]:
    """A text as rows to burn into a picture, uint8 [rows, width]: 255 where its letters are; none for no text."""
    from PIL import Image, ImageDraw

    if not text:
        return np.zeros((0, width), np.uint8)
    size = min(max(width // 28, 11), 48)
    pad = size // 2
    lines = _wrapped(text, _font(size), width - 2 * pad)
    step = round(1.3 * size)
    sheet = Image.new("L", (width, step * len(lines) + pad))
    draw = ImageDraw.Draw(sheet)
    for index, line in enumerate(lines):
        draw.text((width / 2, pad // 2 + step * index), line, 255, _font(size), anchor="ma")
    return np.asarray(sheet)


def encode_jpeg(sheet: Image.Image) -> bytes:
    """A sheet as a JPEG file whose text stays sharp."""
    file = io.BytesIO()
    sheet.save(file, "jpeg", quality=92, subsampling=0)
    return file.getvalue()


def _tiles(photo: Pixels, caption: Caption, spec: PixelSpec) -> list[tuple[str, Image.Image]]:
    """Each word with a small picture of where the model looked for it."""
    small = np.asarray(_fitted(visible_part(photo, spec), _TILE_WIDTH, _TILE_HEIGHT))
    brightest = max(float(caption.attention.max(initial=0)), 1e-9)
    return [
        (word, _heat_map(small, weights / brightest))
        for word, weights in zip(caption.words, caption.attention, strict=True)
    ]


def _heat_map(photo: Pixels, weights: Floats) -> Image.Image:
    """Lays weights (float32 [rows, columns], 0 to 1) over a photograph (uint8 [h, w, 3])."""
    from PIL import Image

    grid = Image.fromarray(np.ascontiguousarray(weights, dtype=np.float32))
    smooth = np.asarray(grid.resize(photo.shape[1::-1], Image.Resampling.BICUBIC)).clip(0, 1)
    # The square root shows weak attention too; what got none stays recognisable, but grey and dark.
    heat = np.sqrt(smooth)[:, :, None]
    place = heat[:, :, 0] * (len(_HEAT) - 1)
    below = place.astype(np.intp).clip(0, len(_HEAT) - 2)
    part = (place - below)[:, :, None]
    color = _HEAT[below] * (1 - part) + _HEAT[below + 1] * part
    grey = photo.mean(axis=2, keepdims=True) * 0.55
    mixed = grey * (1 - 0.65 * heat) + color * (0.65 * heat)
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))


def _fitted(photo: Pixels, width: int, height: int) -> Image.Image:
    """A photograph scaled, up or down, to fit into a box."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(photo))
    factor = min(width / image.width, height / image.height)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)


def _wrapped(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Breaks a text into lines that fit; a word longer than that has a line for itself."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines or [""]


def _label(draw: ImageDraw.ImageDraw, word: str, x: float, y: float) -> None:
    """Writes a word centred below its tile, smaller if it is long."""
    size = 17
    while size > 9 and _font(size).getlength(word) > _TILE_WIDTH:
        size -= 1
    draw.text((x, y), word, _INK, _font(size), anchor="ma")


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    from PIL import ImageFont

    return ImageFont.load_default(size)
