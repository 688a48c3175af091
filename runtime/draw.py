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
_TILE, _BOXES_TILE = 144, 182
"""Width and height of a word's picture at most; outlines of boxes need more room."""
_PAPER, _INK, _PALE = (250, 249, 246), (28, 28, 30), (108, 108, 112)
_BOXES_SHOWN, _FAINT = 4, 0.3
"""Boxes of a word that are drawn: so many, with at least this share of the weight of the first."""
_FINER = 4
"""Outlines are drawn larger by this factor and reduced, which makes them smooth."""
_HEAT = np.array([(20, 12, 60), (120, 28, 109), (220, 70, 60), (252, 165, 10), (252, 255, 164)], np.float32)
"""Colours from no attention to most, at equal distances."""


def caption_sheet(photo: Pixels, caption: Caption, spec: PixelSpec, *, attention: bool) -> Image.Image:
    """Draws a caption.

    Args:
        photo: uint8 [h, w, 3] RGB, at any size.
        caption: of that photograph.
        spec: the bundle's, which says what part of the photograph the model saw.
        attention: adds for each word a heat map, or the boxes with most of the attention where that is on boxes;
            brightness is comparable between the words of the caption.
    """
    from PIL import Image, ImageDraw

    picture = _fitted(photo, PHOTO_WIDTH, PHOTO_HEIGHT)
    width = PHOTO_WIDTH + 2 * _MARGIN
    lines = _wrapped(caption.text or "(no words)", _font(26), PHOTO_WIDTH)
    tiles = _tiles(photo, caption, spec) if attention else []
    side = _TILE if caption.boxes is None else _BOXES_TILE
    columns = (PHOTO_WIDTH + _GAP) // (side + _GAP)
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
        left = (width - len(items) * (side + _GAP) + _GAP) // 2
        for column, (word, tile) in enumerate(items):
            x, y = left + column * (side + _GAP), strip_top + row * row_height
            sheet.paste(tile, (x + (side - tile.width) // 2, y))
            _label(draw, word, x + side / 2, y + tile.height + 4)
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
    brightest = max(float(caption.attention.max(initial=0)), 1e-9)
    if caption.boxes is not None:
        small = np.asarray(_fitted(photo, _BOXES_TILE, _BOXES_TILE))
        return [
            (word, _weighted_boxes(small, caption.boxes, weights[0] / brightest))
            for word, weights in zip(caption.words, caption.attention, strict=True)
        ]
    small = np.asarray(_fitted(visible_part(photo, spec), _TILE, _TILE))
    return [
        (word, _heat_map(small, weights / brightest))
        for word, weights in zip(caption.words, caption.attention, strict=True)
    ]


def _heat_map(photo: Pixels, weights: Floats) -> Image.Image:
    """Lays weights (float32 [rows, columns], 0 to 1) over a photograph (uint8 [h, w, 3])."""
    from PIL import Image

    grid = Image.fromarray(np.ascontiguousarray(weights, dtype=np.float32))
    smooth = np.asarray(grid.resize(photo.shape[1::-1], Image.Resampling.BICUBIC)).clip(0, 1)
    # The square root shows weak attention too.
    heat = np.sqrt(smooth)
    opacity = 0.65 * heat[:, :, None]
    mixed = _unseen(photo) * (1 - opacity) + _heat_colours(heat) * opacity
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))


def _weighted_boxes(photo: Pixels, boxes: Floats, weights: Floats) -> Image.Image:
    """Shows a photograph (uint8 [h, w, 3]) in the boxes (float32 [P, 4], fractions) with the largest weights (0 to 1).

    A heavier box is brighter, and its outline broader, of a hotter colour and less transparent.
    """
    from PIL import Image, ImageDraw

    height, width = photo.shape[:2]
    heaviest = np.argsort(weights)[-_BOXES_SHOWN:]
    least = max(_FAINT * float(weights[heaviest[-1]]), 1e-3)
    light = np.zeros((height, width, 1), np.float32)
    outlines = Image.new("RGBA", (_FINER * width, _FINER * height))
    for index in heaviest:
        left, top, right, bottom = (boxes[index] * np.array([width, height] * 2)).round().astype(int).tolist()
        if weights[index] < least or right <= left or bottom <= top:
            continue
        heat = float(np.sqrt(min(weights[index], 1)))  # shows weak attention too
        inside = light[top:bottom, left:right]
        np.maximum(inside, heat, out=inside)
        color = (*_heat_colours(0.3 + 0.7 * heat).round().astype(int).tolist(), round(255 * heat))
        layer = Image.new("RGBA", outlines.size)
        corners = (_FINER * left, _FINER * top, _FINER * right - 1, _FINER * bottom - 1)
        ImageDraw.Draw(layer).rectangle(corners, outline=color, width=round(_FINER * (0.75 + 1.5 * weights[index])))
        outlines = Image.alpha_composite(outlines, layer)
    mixed = _unseen(photo) * (1 - light) + photo * light
    tile = Image.fromarray(mixed.clip(0, 255).astype(np.uint8)).convert("RGBA")
    return Image.alpha_composite(tile, outlines.resize(tile.size, Image.Resampling.BOX)).convert("RGB")


def _unseen(photo: Pixels) -> Floats:
    """What got no attention stays recognisable, but grey and dark: float32 [h, w, 1]."""
    grey: Floats = photo.mean(axis=2, keepdims=True, dtype=np.float32) * np.float32(0.55)
    return grey


def _heat_colours(heat: npt.ArrayLike) -> Floats:
    """Colours of numbers from 0 to 1, in a last axis of three."""
    place = np.asarray(heat, np.float32) * (len(_HEAT) - 1)
    below = place.astype(np.intp).clip(0, len(_HEAT) - 2)
    part = (place - below)[..., None]
    colours: Floats = _HEAT[below] * (1 - part) + _HEAT[below + 1] * part
    return colours


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
    while size > 9 and _font(size).getlength(word) > _TILE:
        size -= 1
    draw.text((x, y), word, _INK, _font(size), anchor="ma")


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    from PIL import ImageFont

    return ImageFont.load_default(size)
