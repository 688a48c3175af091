"""What a viewer shows is what is captioned; what cannot be read is refused in one line."""

from __future__ import annotations

import io
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from camscribe.runtime.errors import OptionError, SourceError
from camscribe.runtime.images import MAX_PIXELS, as_rgb, decode, expand, read
from camscribe.runtime.pixels import PixelSpec, reduce


def gradient(height: int = 24, width: int = 32) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=2).astype(np.uint8)


def save(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm", "webp", "gif"])
def test_lossless_formats_give_their_pixels(tmp_path: Path, suffix: str) -> None:
    image = Image.fromarray(gradient())
    if suffix == "gif":
        image = image.quantize(64)
    path = save(image, tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    np.testing.assert_array_equal(read(path), np.asarray(image.convert("RGB")))


def test_the_content_counts_not_the_name(tmp_path: Path) -> None:
    save(Image.fromarray(gradient()), tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    np.testing.assert_array_equal(read(tmp_path / "a.jpg"), gradient())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int) -> None:
    stored = Image.fromarray(gradient())
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(stored, tmp_path / "a.png", exif=exif)
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    expected = stored.transpose(turn[orientation]) if orientation in turn else stored
    pixels = read(path)
    np.testing.assert_array_equal(pixels, np.asarray(expected))
    assert pixels.flags.c_contiguous
    with Image.open(path) as image:
        np.testing.assert_array_equal(as_rgb(image), pixels)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_photo_is_as_large_as_a_viewer_shows_it(tmp_path: Path, orientation: int) -> None:
    """However small it is decoded, and however it lies in the file."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.zeros((64, 128, 3), np.uint8))
    for suffix in ("jpg", "png"):
        path = save(stored, tmp_path / f"a.{suffix}", exif=exif)
        with path.open("rb") as file:
            photo = decode(file, str(path), at_least=16)
        assert (photo.width, photo.height) == ((64, 128) if orientation > 4 else (128, 64))
        assert photo.pixels.shape == read(path, at_least=16).shape
        assert photo.pixels.shape[0] * photo.width == photo.pixels.shape[1] * photo.height


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
def test_damaged_exif_does_not_cost_the_image(tmp_path: Path) -> None:
    path = save(
        Image.fromarray(gradient()), tmp_path / "a.jpg", exif=b"Exif\x00\x00MM\x00*\x00\x00\xff\xff broken", quality=95
    )
    assert read(path).shape == (24, 32, 3)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    values = np.linspace(0, 65535, 64 * 16).reshape(16, 64).astype(np.uint16)
    pixels = read(save(Image.fromarray(values), tmp_path / f"a.{suffix}"))
    assert np.abs(pixels - values[:, :, None] / 257).max() <= 0.51
    assert pixels.shape == (16, 64, 3)
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_grey_of_32_bits_is_refused_where_white_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="32-bit"):
        read(save(Image.fromarray(np.full((4, 4), 70_000, np.int32)), tmp_path / "a.tif"))
    with pytest.raises(SourceError, match="floating-point"):
        read(save(Image.fromarray(np.full((4, 4), 0.5, np.float32)), tmp_path / "b.tif"))


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "YCbCr", "P", "HSV", "RGBX"])
def test_other_colour_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(gradient()).convert(mode)
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(as_rgb(image), expected)
    suffix = {"L": "png", "1": "png", "P": "png", "CMYK": "tif"}.get(mode)
    if suffix is not None:
        np.testing.assert_array_equal(read(save(image, tmp_path / f"a.{suffix}")), expected)


def test_cmyk_jpeg_is_not_a_negative(tmp_path: Path) -> None:
    image = Image.new("RGB", (32, 32), (250, 240, 200)).convert("CMYK")
    assert np.abs(read(save(image, tmp_path / "a.jpg")).astype(int) - (250, 240, 200)).max() < 12


@pytest.mark.parametrize("mode", ["RGBA", "LA", "RGBa", "La"])
def test_transparent_pixels_lie_on_white(mode: str) -> None:
    image = Image.new("RGBA", (8, 4), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 4, 4))
    pixels = as_rgb((image.convert("LA") if mode == "La" else image).convert(mode))
    assert (pixels[:, :4] == 0).all()
    assert (pixels[:, 4:] == 255).all()


def test_half_transparency_is_mixed_with_white() -> None:
    assert np.abs(as_rgb(Image.new("RGBA", (2, 2), (0, 100, 200, 128))).astype(int) - (127, 177, 227)).max() <= 1


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_transparent_colour_lies_on_white(tmp_path: Path, mode: str) -> None:
    image = Image.new("L", (8, 4), 0)
    image.paste(90, (0, 0, 4, 4))
    image = image.convert(mode)
    transparent: object = (0, 0, 0) if mode == "RGB" else image.getpixel((7, 0))
    pixels = read(save(image, tmp_path / "a.png", transparency=transparent))
    assert (pixels[:, :4] == 90).all()
    assert (pixels[:, 4:] == 255).all()


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_the_first_frame_of_an_animation_counts(tmp_path: Path, suffix: str) -> None:
    first, second = Image.new("RGB", (16, 16), (255, 0, 0)), Image.new("RGB", (16, 16), (0, 0, 255))
    options = {"lossless": True} if suffix == "webp" else {}
    path = save(first, tmp_path / f"a.{suffix}", save_all=True, append_images=[second], **options)
    assert (read(path) == (255, 0, 0)).all()


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif"])
def test_an_image_of_one_pixel_is_an_image(tmp_path: Path, suffix: str) -> None:
    pixels = read(save(Image.new("RGB", (1, 1), (255, 255, 255)), tmp_path / f"a.{suffix}"))
    assert pixels.shape == (1, 1, 3)
    assert (pixels >= 250).all()


def one_line(error: pytest.ExceptionInfo[SourceError], *parts: str) -> None:
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as error:
        read(tmp_path / "none.jpg")
    one_line(error, "none.jpg", "no such file")


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    with pytest.raises(SourceError) as error:
        read(tmp_path / "a.jpg")
    one_line(error, "a.jpg", "is empty")


@pytest.mark.parametrize("content", [b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", bytes(4096)])
def test_not_an_image(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(SourceError) as error:
        read(tmp_path / "a.jpg")
    one_line(error, "a.jpg", "expected JPEG")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "tif", "bmp"])
def test_truncated_file(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(Image.fromarray(noise), tmp_path / f"a.{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SourceError) as error:
        read(path)
    one_line(error, f"a.{suffix}")


def test_a_folder_is_not_an_image(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is a folder"):
        read(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceError, match="not a regular file"):
        read(tmp_path / "pipe")


@pytest.mark.parametrize("side", [9_460, 13_400, 30_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path, side: int) -> None:
    assert side * side > MAX_PIXELS
    small = io.BytesIO()
    Image.new("L", (8, 8)).save(small, "png")
    data = bytearray(small.getvalue())
    data[16:24] = side.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (tmp_path / "bomb.png").write_bytes(data)
    for at_least in (None, 100):
        with pytest.raises(SourceError) as error:
            read(tmp_path / "bomb.png", at_least)
        one_line(error, "bomb.png", str(MAX_PIXELS))


def test_a_large_jpeg_is_decoded_no_larger_than_it_must_be_and_gives_the_same_picture(
    repository: Path, tmp_path: Path
) -> None:
    photo = reduce(read(repository / "examples" / "horses.jpg"), PixelSpec(1200, 1600))
    path = save(Image.fromarray(photo), tmp_path / "large.jpg", quality=95)
    whole, spec = read(path), PixelSpec(100, 100)
    assert [read(path, size).shape[0] for size in (100, 150, 200, 300, 500, 600, 601, 5000)] == [
        150, 150, 300, 300, 600, 600, 1200, 1200,
    ]  # fmt: skip
    for at_least in (200, 600):
        assert np.abs(reduce(read(path, at_least), spec).astype(int) - reduce(whole, spec)).mean() < 0.7
    odd = save(Image.fromarray(photo[:-1]), tmp_path / "odd.jpg")
    assert read(odd, at_least=100).shape == (1199, 1600, 3)


def test_pathlib_and_text_paths_and_pil_images_agree(tmp_path: Path) -> None:
    path = save(Image.fromarray(gradient()), tmp_path / "a.jpg")
    expected = read(path)
    np.testing.assert_array_equal(as_rgb(str(path)), expected)
    np.testing.assert_array_equal(as_rgb(path), expected)
    with Image.open(path) as image:
        np.testing.assert_array_equal(as_rgb(image), expected)


def test_a_truncated_pil_image_is_a_source_error(tmp_path: Path) -> None:
    path = save(Image.fromarray(gradient(240, 320)), tmp_path / "a.jpg")
    path.write_bytes(path.read_bytes()[:-2000])
    with Image.open(path) as image, pytest.raises(SourceError, match="PIL image"):
        as_rgb(image)


def test_arrays_say_their_colour_order() -> None:
    image = gradient()
    assert as_rgb(image, "rgb") is image
    np.testing.assert_array_equal(as_rgb(image[:, :, ::-1], "bgr"), image)
    np.testing.assert_array_equal(as_rgb(image[:, :, 0]), np.repeat(image[:, :, :1], 3, axis=2))
    with pytest.raises(OptionError, match="color is not given"):
        as_rgb(image)
    with pytest.raises(OptionError, match="expected 'rgb', 'bgr' or 'nv12'"):
        as_rgb(image, "RGB")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(3, np.uint8),
        np.zeros((), np.uint8),
        np.zeros((4, 4), np.uint16),
        np.array([["a"]]),
        np.array([[None]]),
    ],
)
def test_arrays_of_other_forms_are_refused(array: np.ndarray) -> None:
    with pytest.raises(SourceError, match="expected") as error:
        as_rgb(array, "rgb")
    one_line(error)


@pytest.mark.parametrize("thing", [None, 3, b"a.jpg", [np.zeros((4, 4), np.uint8)], io.BytesIO()])
def test_other_things_are_refused(thing: object) -> None:
    with pytest.raises(SourceError, match="expected a path, a PIL image or a numpy array"):
        as_rgb(thing)  # type: ignore[arg-type]


def test_a_folders_image_that_is_not_there_is_named_and_an_empty_name_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "link.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "folder.jpg").mkdir()
    found, problems = expand([str(tmp_path), ""])
    assert found == [tmp_path / "link.jpg"]
    assert [str(problem) for problem in problems] == ["an empty name is no image; expected a file, a folder or a glob"]
    with pytest.raises(SourceError, match=r"link\.jpg: no such file"):
        read(found[0])


def test_expansion_of_files_folders_and_globs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("d/b.jpg", "d/a.PNG", "d/._b.jpg", "d/notes.txt", "d/sub/c.jpg", "e.jpg", "f[1].jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found, problems = expand(["e.jpg", "d", "d/**/*.jpg", "f[1].jpg", "missing.jpg"])
    assert [path.as_posix() for path in found] == [
        "e.jpg", "d/a.PNG", "d/b.jpg", "d/b.jpg", "d/sub/c.jpg", "f[1].jpg", "missing.jpg",
    ]  # fmt: skip
    assert problems == []


def test_expansion_names_what_gave_nothing_and_keeps_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "locked").mkdir()
    (tmp_path / "a.jpg").touch()
    real = Path.iterdir

    def iterdir(path: Path) -> object:
        if path.name == "locked":  # the tests may run as root, whom no permission stops
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    names = ["empty", "locked", "*.png", "a.jpg"]
    found, problems = expand([str(tmp_path / name) for name in names])
    assert found == [tmp_path / "a.jpg"]
    assert ["empty" in str(problems[0]), "Permission denied" in str(problems[1]), "*.png" in str(problems[2])] == [
        True
    ] * 3
    assert len(problems) == 3


@pytest.mark.parametrize("argument", ["", "\0", "a" * 5000, "[", "**"])
def test_expansion_of_odd_arguments_never_raises(
    argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found, problems = expand([argument])
    for path in found:
        with pytest.raises(SourceError):
            read(path)
    assert len(found) + len(problems) == 1


def encoded(suffix: str, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(gradient()).convert(mode).save(file, suffix, **({"exif": exif} if suffix != "gif" else {}))
    return file.getvalue()


SEEDS = [
    encoded("jpeg"),
    encoded("png"),
    encoded("png", "P"),
    encoded("webp"),
    encoded("tiff"),
    encoded("gif"),
    encoded("bmp"),
]


@pytest.mark.filterwarnings("ignore")
@settings(deadline=None, max_examples=400)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=12),
    st.floats(0, 1),
    st.booleans(),
)
def test_fuzzed_files_are_read_or_refused_in_one_line(
    seed: bytes, changes: list[tuple[float, int]], keep: float, truncate: bool
) -> None:
    data = bytearray(seed)
    for place, value in changes:
        # Squared, so that headers are hit more often than pixels.
        data[int(place * place * len(data))] = value
    if truncate:
        del data[int(keep * len(data)) :]
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"camscribe-fuzz-{os.getpid()}"
    try:
        path.write_bytes(data)
        pixels = read(path)
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3
    except SourceError as error:
        assert "\n" not in str(error)  # noqa: PT017 - damaged files may well be readable
    finally:
        path.unlink()
