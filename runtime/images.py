"""Photographs as arrays: files, PIL images and numpy arrays all become uint8 [h, w, 3] RGB here.

What a viewer shows is what is captioned: EXIF rotation is applied, transparency lies on white, 16-bit grey is scaled
(not clipped), the first frame of an animation counts.
"""

from __future__ import annotations

import glob
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from camscribe.runtime.errors import OptionError, SourceError
from camscribe.runtime.pixels import Pixels, opencv

if TYPE_CHECKING:
    from PIL import Image, ImageFile

Color = Literal["rgb", "bgr", "nv12"]


class OnGpu(Protocol):
    """An array on a GPU, of whatever library: PyTorch, CuPy, PyCUDA, Numba. DLPack is understood too."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]: ...


ImageLike: TypeAlias = "str | os.PathLike[str] | npt.NDArray[np.uint8] | Image.Image | OnGpu"

MAX_PIXELS = 89_478_485
"""Larger images are refused before they are decoded: Pillow's own limit, a quarter of a GiB of RGB."""
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif"}
)
"""File names that count as images when a folder is searched."""
_FORMATS = (
    (rb"\xff\xd8\xff", "JpegImagePlugin", "JpegImageFile"),
    (rb"\x89PNG\r\n\x1a\n", "PngImagePlugin", "PngImageFile"),
    (rb"RIFF....WEBP", "WebPImagePlugin", "WebPImageFile"),
    (rb"GIF8[79]a", "GifImagePlugin", "GifImageFile"),
    (rb"BM", "BmpImagePlugin", "BmpImageFile"),
    (rb"II[*+]\x00|MM\x00[*+]", "TiffImagePlugin", "TiffImageFile"),
    (rb"P[1-6]\s", "PpmImagePlugin", "PpmImageFile"),
    (rb"....ftyp(avif|avis|mif1)", "AvifImagePlugin", "AvifImageFile"),
)
"""(begin of the file, its plugin in Pillow, the plugin's class). Pillow itself would import five plugins for any image,
and for an unknown one all it has, among them one that starts Ghostscript."""
_ORIENTATION = 0x0112
_LYING = (5, 6, 7, 8)
"""Orientations whose rows are the viewer's columns."""


_ON_HOST = (np.ndarray, str, os.PathLike)
DLPACK_GPU = (2, 13)
"""Kinds of device in DLPack that a kernel reads: CUDA and CUDA managed memory."""


def is_on_gpu(image: object) -> bool:
    """Whether an object shows itself as memory of a GPU."""
    if isinstance(image, _ON_HOST):
        return False
    if hasattr(image, "__cuda_array_interface__"):
        return True
    device = getattr(image, "__dlpack_device__", None)
    return device is not None and int(device()[0]) in DLPACK_GPU


def as_rgb(image: ImageLike, color: Color | None = None, at_least: int | None = None) -> Pixels:
    """Pixels of an image in any of the forms a caller may hold.

    Args:
        image: a path, a PIL image (EXIF rotation applied), or a numpy array: uint8 [h, w, 3], or [h, w] for grey, or
            [h * 3 / 2, w] for NV12 as cameras give it: Y, then U and V in turns at half the size (BT.601, 16 to 235).
        color: order of the channels of an array of three, ``"rgb"`` (PIL, imageio) or ``"bgr"`` (OpenCV); ``"nv12"``
            for that. Must be said for such an array, as nothing in it tells; other forms know their own.
        at_least: see ``read``.

    Returns:
        uint8 [h, w, 3], RGB. May share memory with ``image``.

    Raises:
        SourceError: the image cannot be read, or is not of such a form.
        OptionError: ``color`` is missing or unknown.
    """
    if color not in (None, "rgb", "bgr", "nv12"):
        raise OptionError(f"color is {color!r}; expected 'rgb', 'bgr' or 'nv12'")
    if isinstance(image, np.ndarray):
        return _array_as_rgb(image, color)
    if isinstance(image, str | os.PathLike):
        return read(Path(image), at_least)
    # An image of PIL can exist only where PIL is loaded, so PIL need not be loaded to ask.
    pil = sys.modules.get("PIL.Image")
    if pil is not None and isinstance(image, pil.Image):
        return _guarded(image, "PIL image")
    raise SourceError(f"image is a {type(image).__name__}; expected a path, a PIL image or a numpy array")


def read(path: Path, at_least: int | None = None) -> Pixels:
    """Reads an image file.

    Args:
        path: the file.
        at_least: rows and columns that suffice. A JPEG of twice as many or more is decoded at a half, quarter or eighth
            of its size, which saves most of the time and memory, where that is a whole number of pixels: then the means
            over areas stay the same within a fraction of a level.

    Returns:
        uint8 [h, w, 3], RGB.

    Raises:
        SourceError: the file is missing, empty, truncated, not an image, too large or not readable.
    """
    try:
        if path.is_dir():
            raise SourceError(f"{path}: is a folder; expected an image file")
        if path.exists() and not path.is_file():
            raise SourceError(f"{path}: is not a regular file; expected an image file")
        with path.open("rb") as file:
            return decode(file, str(path), at_least).pixels
    except FileNotFoundError as error:
        raise SourceError(f"{path}: no such file; expected an image") from error
    except (OSError, ValueError) as error:  # a ValueError where the path holds a zero
        raise SourceError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or _line(error)})") from error


@dataclass(frozen=True)
class Photo:
    """A decoded image, and how large it is."""

    pixels: Pixels
    """[h, w, 3], RGB; smaller than the image where that sufficed."""
    width: int
    """Of the image as a viewer shows it."""
    height: int


def decode(file: BinaryIO, name: str, at_least: int | None = None) -> Photo:
    """Decodes an open image file: one on a disk, in an archive or in memory.

    Args:
        file: from its first byte; must be able to seek.
        name: what errors call it.
        at_least: see ``read``.

    Raises:
        SourceError: it is empty, truncated, not an image, too large or not readable.
    """
    try:
        head = file.read(16)
        if not head:
            raise SourceError(f"{name}: is empty; expected an image")
        opener = _opener_of(head)
        if opener is None:
            # HEIC, JPEG 2000 and the like are images, too.
            known = "JPEG, PNG, WebP, GIF, BMP, TIFF, PPM or AVIF"
            raise SourceError(f"{name}: is not an image in a known format; expected {known}")
        file.seek(0)
        with opener(file) as image:
            _check_size(image, name)
            width, height = image.size
            _decode_smaller(image, at_least)
            pixels = _guarded(image, name)
            lies = _orientation(image) in _LYING
            return Photo(pixels, height, width) if lies else Photo(pixels, width, height)
    except SourceError:
        raise
    except OSError as error:
        raise SourceError(f"{name}: cannot be read ({error.strerror or _line(error)})") from error
    except Exception as error:  # Pillow's header parsers raise whatever a damaged file makes them raise
        raise SourceError(f"{name}: is a damaged image ({_line(error)})") from error


def expand(arguments: Iterable[str]) -> tuple[list[Path], list[SourceError]]:
    """Expands IMAGE, FOLDER and GLOB arguments.

    A folder gives the image files in it (by name, neither hidden ones nor those of its sub-folders), a glob (``**``
    too) the files it matches; both sorted. A name that exists is never a glob. A missing file, also one that a link
    in a folder leads to, stays in the list: reading it says so.

    Returns:
        The files in the order of the arguments, and one error for each argument that gave none.
    """
    found: list[Path] = []
    problems: list[SourceError] = []
    for argument in arguments:
        path = Path(argument)
        try:
            if not argument:  # a variable of a shell that is not set; as a path it would be the current folder
                raise SourceError("an empty name is no image; expected a file, a folder or a glob")
            if path.is_dir():
                files = sorted(item for item in path.iterdir() if looks_like_image(item) and not item.is_dir())
                if not files:
                    raise SourceError(f"{path}: holds no image files ({' '.join(sorted(SUFFIXES))})")
            elif not path.exists() and glob.has_magic(argument):
                matches = map(Path, glob.glob(argument, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute ones
                files = sorted(item for item in matches if item.is_file())
                if not files:
                    raise SourceError(f"{argument}: matches no file")
            else:
                files = [path]
        except SourceError as error:
            problems.append(error)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or _line(error)
            problems.append(SourceError(f"{argument}: cannot be read ({reason})"))
        else:
            found.extend(files)
    return found, problems


def looks_like_image(path: PurePath) -> bool:
    """Whether a file found by search counts as an image, by its name alone."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _array_as_rgb(array: npt.NDArray[np.uint8], color: Color | None) -> Pixels:
    if array.dtype != np.uint8:
        raise SourceError(f"image is an array of {array.dtype}; expected uint8, 0 to 255")
    if array.size == 0:
        raise SourceError(f"image is an array of shape {_shape(array)}; expected at least one pixel")
    if color == "nv12":
        if array.ndim != 2 or array.shape[0] % 3 or array.shape[1] % 2:
            raise SourceError(
                f"image is an array of shape {_shape(array)}; "
                "expected (height * 3 / 2) x width with even sides for NV12"
            )
        cv2 = opencv()
        rgb: Pixels = cv2.cvtColor(np.ascontiguousarray(array), cv2.COLOR_YUV2RGB_NV12)
        return rgb
    if array.ndim == 2:
        return np.repeat(array[:, :, None], 3, axis=2)
    if array.ndim != 3 or array.shape[2] != 3:
        raise SourceError(
            f"image is an array of shape {_shape(array)}; expected height x width x 3, or height x width for grey"
        )
    if color is None:
        raise OptionError("color is not given; expected 'rgb' or 'bgr' for an array of three channels")
    return np.ascontiguousarray(array[:, :, ::-1] if color == "bgr" else array)


def _shape(array: npt.NDArray[Any]) -> str:
    return "x".join(map(str, array.shape))


def _guarded(image: Image.Image, name: str) -> Pixels:
    """``_pil_as_rgb`` with every failure of a decoder as one line."""
    try:
        return _pil_as_rgb(image, name)
    except SourceError:
        raise
    except MemoryError as error:
        raise SourceError(f"{name}: does not fit into memory ({image.width} x {image.height} pixels)") from error
    except Exception as error:  # decoders raise whatever a damaged file makes them raise
        raise SourceError(f"{name}: is a damaged or truncated image ({_line(error)})") from error


def _decode_smaller(image: ImageFile.ImageFile, at_least: int | None) -> None:
    """Makes a JPEG file decode at the smallest size that is large enough; others ignore it."""
    for scale in (8, 4, 2):
        small = (image.width // scale, image.height // scale)
        if at_least and min(small) >= at_least and (small[0] * scale, small[1] * scale) == image.size:
            image.draft(None, small)
            return


def _check_size(image: Image.Image, name: str) -> None:
    """Refuses what would not fit into memory, before it is decoded."""
    if not 1 <= image.width * image.height <= MAX_PIXELS:
        raise SourceError(f"{name}: has {image.width} x {image.height} pixels; expected 1 to {MAX_PIXELS} in all")


def _pil_as_rgb(image: Image.Image, name: str) -> Pixels:
    _check_size(image, name)
    image.load()  # before the EXIF data, which may stand behind the pixels
    pixels = _upright(_convert(image, name), _orientation(image))
    return np.ascontiguousarray(pixels)


def _convert(image: Image.Image, name: str) -> Pixels:
    """A decoded image of any mode as uint8 [h, w, 3]."""
    from PIL import Image

    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return np.repeat(_deep_grey(image, name)[:, :, None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        if image.mode == "La":
            image = image.convert("LA")
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    if image.mode != "RGB":
        image = image.convert("RGB")
    return np.asarray(image)


def _deep_grey(image: Image.Image, name: str) -> Pixels:
    """Grey of more than 8 bits, scaled: Pillow's own conversion would clip everything above 255 to white."""
    values = np.asarray(image)
    if image.mode == "F":
        raise SourceError(f"{name}: holds floating-point pixels, whose white is unknown; convert it to 8 or 16 bits")
    # Older Pillow reads 16-bit PNG as 32-bit integers.
    if values.min() < 0 or values.max() > 65535:
        raise SourceError(f"{name}: holds 32-bit pixels, whose white is unknown; convert it to 8 or 16 bits")
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) to 8."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # the pixels are good, only the notes about them are damaged
        return 1


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Turns pixels as a viewer would; an unknown orientation counts as upright."""
    if orientation in _LYING:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _opener_of(head: bytes) -> Callable[[BinaryIO], ImageFile.ImageFile] | None:
    """What opens a file that begins with ``head``; None where nothing does."""
    for magic, plugin, name in _FORMATS:
        if re.match(magic, head, re.DOTALL):
            try:
                opener: Callable[[BinaryIO], ImageFile.ImageFile] = getattr(
                    importlib.import_module(f"PIL.{plugin}"), name
                )
            except ImportError:  # an older Pillow
                return None
            return opener
    return None


def _line(error: BaseException) -> str:
    """An error as one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
