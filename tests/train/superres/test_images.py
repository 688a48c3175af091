"""Reduced images, scores and degradations: against the published pairs, and against definitions."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from camscribe.runtime.cli import main
from camscribe.runtime.errors import DataError
from camscribe.train.superres.config import DataConfig
from camscribe.train.superres.degrade import camera
from camscribe.train.superres.losses import relativistic_average
from camscribe.train.superres.metrics import image_scores, luma, psnr
from camscribe.train.superres.patches import Patches, pair, read_photographs
from camscribe.train.superres.resize import resize


def _picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.data
def test_reduction_is_matlab_s_to_the_last_level(data_dir: Path) -> None:
    folder = data_dir / "sr" / "set5_x4"
    for index in range(1, 6):
        large, small = (
            np.asarray(Image.open(folder / f"img_{index:03}_SRF_4_{side}.png").convert("RGB")) for side in ("HR", "LR")
        )
        assert np.array_equal(resize(large, 1 / 4), small)


@pytest.mark.data
def test_bicubic_gives_the_published_row_of_set5(data_dir: Path, tmp_path: Path) -> None:
    report = tmp_path / "bicubic.json"
    arguments = ["evaluate", "--bicubic", "4", "--data", str(data_dir / "sr" / "set5_x4"), "--out", str(report)]
    assert main(arguments) == 0
    found = json.loads(report.read_text())
    assert found["data"]["border"] == 4
    assert found["data"]["small_images"] == "given"
    assert found["scores"]["psnr_y"] == pytest.approx(28.42, abs=0.005)
    assert found["scores"]["ssim_y"] == pytest.approx(0.8104, abs=0.0005)


@pytest.mark.parametrize("scale", [1 / 4, 1 / 2, 0.6, 2.0, 4.0])
def test_resizing_keeps_flat_and_sloping_pictures(scale: float) -> None:
    assert np.array_equal(np.unique(resize(np.full((20, 30, 3), 77, np.uint8), scale)), [77])
    slope = np.repeat((np.arange(40) * 6)[None, :, None], 3, axis=2).repeat(16, axis=0).astype(np.uint8)
    made = resize(slope, scale)
    assert made.shape == (int(np.ceil(16 * scale)), int(np.ceil(40 * scale)), 3)
    inner = slice(int(np.ceil(3 * max(scale, 1))), -int(np.ceil(3 * max(scale, 1))))
    expected = ((np.arange(made.shape[1]) + 0.5) / scale - 0.5) * 6
    assert np.abs(made[0, inner, 0] - expected[inner]).max() <= 1


def test_scores_of_known_differences() -> None:
    truth = _picture(40, 48)
    other = truth.copy()
    other[:4] = 0  # within the border, so it does not count
    scores = image_scores(other, truth, 4)
    assert scores.psnr_rgb == float("inf")
    assert scores.ssim_y == pytest.approx(1)
    assert psnr(np.full((3, 3), 10), np.full((3, 3), 15)) == pytest.approx(20 * np.log10(255 / 5))
    assert luma(np.array([[[255, 255, 255], [0, 0, 0], [255, 0, 0]]], np.uint8)).tolist() == [[235, 16, 81]]
    with pytest.raises(DataError, match="expected the same shape"):
        image_scores(truth[:-1], truth, 4)
    with pytest.raises(DataError, match="without its border"):
        image_scores(truth, truth, 16)


def test_patches_are_pairs() -> None:
    pairs = [pair("a", _picture(64, 80), 4), pair("b", _picture(83, 66, 1), 4)]
    assert pairs[1].large.shape == (80, 64, 3)
    patches = Patches(pairs, 4, DataConfig("x"))
    small, large = patches.batch(12, 8, np.random.default_rng(5))
    assert small.shape == (12, 3, 8, 8)
    assert large.shape == (12, 3, 32, 32)
    for own, other in zip(small, large, strict=True):
        # The mean of the large patch's middle is nearly that of the small one's, however both were turned.
        assert torch.allclose(own[:, 2:-2, 2:-2].mean((1, 2)), other[:, 8:-8, 8:-8].mean((1, 2)), atol=0.05)
    again = patches.batch(12, 8, np.random.default_rng(5))
    assert torch.equal(small, again[0])


def test_a_camera_blurs_adds_noise_and_compresses() -> None:
    large = _picture(96, 96)[..., :1].repeat(3, axis=2)  # grey, as JPEG halves the colours' resolution
    clean = camera(large, 4, DataConfig("x", blur=0, noise=0, jpeg_quality=95), np.random.default_rng(1))
    rough = camera(large, 4, DataConfig("x", blur=2.0, noise=30, jpeg_quality=20), np.random.default_rng(1))
    exact = resize(large, 1 / 4)
    assert clean.shape == rough.shape == (24, 24, 3)
    assert psnr(clean, exact) > 30 > psnr(rough, exact)


def test_photographs_that_cannot_train_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        read_photographs(DataConfig(str(tmp_path / "none")), 4, 8)
    for index in range(3):
        Image.fromarray(_picture(64, 64, index)).save(tmp_path / f"{index}.png")
    with pytest.raises(DataError, match="expected more than the 8"):
        read_photographs(DataConfig(str(tmp_path)), 4, 8)
    (tmp_path / "3.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    Image.fromarray(_picture(16, 64)).save(tmp_path / "4.png")
    with pytest.raises(DataError, match=r"2 bad photographs.*3\.png.*4\.png"):
        read_photographs(DataConfig(str(tmp_path), tune=1), 4, 8)


def test_the_relativistic_loss_is_the_published_one() -> None:
    real, fake = torch.tensor([1.0, 3.0, -0.5]), torch.tensor([0.5, -2.0, 0.0])
    sigmoid = torch.sigmoid
    for winners, losers in ((real, fake), (fake, real)):
        expected = -torch.log(sigmoid(winners - losers.mean())).mean() / 2
        expected += -torch.log(1 - sigmoid(losers - winners.mean())).mean() / 2
        assert relativistic_average(winners, losers) == pytest.approx(float(expected), rel=1e-5)
    assert relativistic_average(real, fake) < relativistic_average(fake, real)


def test_wrong_pairs_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, size in (("a_HR", (64, 64)), ("a_LR", (16, 15)), ("b_HR", (64, 64))):
        Image.fromarray(_picture(size[1], size[0])).save(tmp_path / f"{name}.png")
    assert main(["evaluate", "--bicubic", "4", "--data", str(tmp_path)]) == 2
    assert "b_HR.png: has no small image" in capsys.readouterr().err
    (tmp_path / "b_HR.png").unlink()
    assert main(["evaluate", "--bicubic", "4", "--data", str(tmp_path)]) == 2
    assert "16x15 enlarged x4 is 64x60, the truth is 64x64" in capsys.readouterr().err
    Image.fromarray(_picture(16, 16)).save(tmp_path / "a_LR.png")
    assert main(["evaluate", "--bicubic", "4", "--data", str(tmp_path), "--border", "28"]) == 2
    assert "too small to leave a border" in capsys.readouterr().err
    assert main(["evaluate", "--bicubic", "4", "--data", str(tmp_path)]) == 0
    assert "PSNR, luma" in capsys.readouterr().out


@pytest.mark.parametrize(
    "option", [["--backend", "cpu"], ["--precision", "int8"], ["--threads", "1"], ["--verbose"], ["--variant", "gan"]]
)
def test_bicubic_refuses_what_a_model_takes(
    tmp_path: Path, option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "--bicubic", "4", "--data", str(tmp_path), *option]) == 2
    assert f"{option[0]} is given, but --bicubic runs no model; leave it out" in capsys.readouterr().err


def test_reports_and_sheets_are_files_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", "--bicubic", "4", "--data", str(tmp_path)]
    assert main([*arguments, "--sheet", str(tmp_path)]) == 2
    assert f"--sheet {tmp_path}: is a folder; expected the name of a file" in capsys.readouterr().err
    assert main([*arguments, "--out", str(tmp_path / "a"), "--sheet", str(tmp_path / "a")]) == 2
    assert "is the file of --out too; expected two files" in capsys.readouterr().err


def test_small_images_may_lie_in_their_own_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "large").mkdir()
    (tmp_path / "small").mkdir()
    picture = _picture(64, 48)
    Image.fromarray(picture).save(tmp_path / "large" / "one.png")
    file = io.BytesIO()
    Image.fromarray(resize(picture, 1 / 2)).save(file, "PNG")
    (tmp_path / "small" / "onex2.png").write_bytes(file.getvalue())
    given = ["--data", str(tmp_path / "large"), "--small", str(tmp_path / "small"), "--out", str(tmp_path / "a.json")]
    assert main(["evaluate", "--bicubic", "2", *given]) == 0
    reduced = ["--data", str(tmp_path / "large"), "--out", str(tmp_path / "b.json")]
    assert main(["evaluate", "--bicubic", "2", *reduced]) == 0
    capsys.readouterr()
    first, second = (json.loads((tmp_path / f"{name}.json").read_text()) for name in "ab")
    assert first["scores"] == second["scores"]
