"""The library's front door."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from camscribe.runtime.bundle import Bundle
from camscribe.runtime.caption import Caption
from camscribe.runtime.captioner import Captioner
from camscribe.runtime.errors import BundleError, EngineError, OptionError, SourceError
from camscribe.runtime.manifest import Manifest


@pytest.fixture(scope="module")
def captioner(toy_bundle: Bundle) -> Iterator[Captioner]:
    with Captioner.load(toy_bundle.path, backend="cpu", threads=1) as loaded:
        yield loaded


def key(caption: Caption) -> list[tuple[str, float, float, bool]]:
    return [(item.text, item.log_prob, item.score, item.truncated) for item in caption.hypotheses]


def test_a_caption_is_consistent_in_itself(captioner: Captioner, toy: Any) -> None:
    caption = captioner.caption(toy.images(1)[0], color="rgb", nbest=3, length_penalty=0.7)
    assert len(caption.hypotheses) == 3
    best = caption.hypotheses[0]
    assert (caption.text, caption.words, caption.log_prob) == (best.text, best.words, best.log_prob)
    assert (caption.score, caption.truncated) == (best.score, best.truncated)
    assert caption.attention is best.attention
    for item in caption.hypotheses:
        assert item.text == " ".join(item.words)
        assert not set(item.words) & {"<pad>", "<s>", "</s>", "<unk>"}
        assert item.score == pytest.approx(item.log_prob / (len(item.words) + (not item.truncated)) ** 0.7)
        assert item.attention.shape == (len(item.words), 2, 2)
        np.testing.assert_allclose(item.attention.sum(axis=(1, 2)), 1, atol=1e-5)
    ended = [item.score for item in caption.hypotheses if not item.truncated]
    assert ended == sorted(ended, reverse=True)
    assert dataclasses.astuple(caption.timings) == pytest.approx(dataclasses.astuple(caption.timings))
    assert caption.timings.total_ms == pytest.approx(sum(dataclasses.astuple(caption.timings)))
    assert all(value >= 0 for value in dataclasses.astuple(caption.timings))


def test_all_forms_of_an_image_give_the_same_caption(captioner: Captioner, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    expected = key(captioner.caption(pixels, color="rgb"))
    assert key(captioner.caption(path)) == expected
    assert key(captioner.caption(str(path))) == expected
    assert key(captioner.caption(Image.fromarray(pixels))) == expected
    assert key(captioner.caption(pixels[:, :, ::-1], color="bgr")) == expected
    with pytest.raises(OptionError, match="color is not given"):
        captioner.caption(pixels)


def test_a_list_gives_a_list_in_its_order_whatever_the_batch(captioner: Captioner, toy: Any) -> None:
    images = list(toy.images(7))
    alone = [captioner.caption(image, color="rgb").words for image in images]
    assert len(set(alone)) > 1
    for batch in (1, 2, 3, 7, 100):
        assert [caption.words for caption in captioner.caption(images, color="rgb", batch=batch)] == alone
    assert captioner.caption(tuple(images[:1]), color="rgb")[0].words == alone[0]
    assert captioner.caption([]) == []


def test_a_bad_image_of_a_list_is_named(captioner: Captioner, toy: Any, tmp_path: Path) -> None:
    images = [toy.images(1)[0], tmp_path / "missing.jpg"]
    with pytest.raises(SourceError, match=r"image 1 of 2: .*missing\.jpg: no such file"):
        captioner.caption(images, color="rgb")


def test_each_image_gives_its_caption_or_its_error(captioner: Captioner, toy: Any, tmp_path: Path) -> None:
    good = toy.images(4)
    mixed = [good[0], tmp_path / "a.jpg", tmp_path / "b.jpg", good[1], good[2], tmp_path / "c.jpg", good[3]]
    for batch in (1, 2, 3, 10):
        found = list(captioner.caption_each(iter(mixed), color="rgb", batch=batch))
        assert [isinstance(item, SourceError) for item in found] == [False, True, True, False, False, True, False]
        words = [item.words for item in found if isinstance(item, Caption)]
        assert words == [caption.words for caption in captioner.caption(list(good), color="rgb")]


def test_images_are_not_read_before_they_are_needed(captioner: Captioner, toy: Any) -> None:
    taken = 0

    def images() -> Iterator[np.ndarray]:
        nonlocal taken
        for image in toy.images(9):
            taken += 1
            yield image

    stream = captioner.caption_each(images(), color="rgb", batch=3)
    next(stream)
    assert taken == 3


def test_options_change_the_search_and_are_checked(captioner: Captioner, toy: Any) -> None:
    image = toy.images(1)[0]
    words = captioner.caption(image, color="rgb", max_words=3, min_words=2, beams=2).words
    assert 2 <= len(words) <= 3
    banned = captioner.caption(image, color="rgb", ban=[words[0]])
    assert words[0] not in banned.words
    assert captioner.options(ban=["word5"]).ban == ("<unk>", "word5")
    for arguments, message in (
        ({"beams": 0}, "beams is 0"),
        ({"beams": 2.0}, "beams is 2.0; expected an integer"),
        ({"nbest": 9}, "raise beams or lower nbest"),
        ({"beam": 3}, "beam is not a search option; expected beams"),
        ({"length_penalty": math.nan}, "length_penalty is nan"),
        ({"length_penalty": "1"}, "length_penalty is"),
        ({"ban": "word5"}, "expected a list of words"),
        ({"ban": 3}, "ban is 3; expected a list of words"),
        ({"ban": ["word5", 3]}, "expected a list of words"),
        ({"ban": ["Word5"]}, "did you mean 'word5'"),
        ({"ban": ["zebra"]}, "'zebra', which is not a word of this model$"),
        ({"color": "RGB"}, "expected 'rgb', 'bgr' or 'nv12'"),
    ):
        with pytest.raises(OptionError, match=message):
            captioner.caption(image, **{"color": "rgb", **arguments})  # type: ignore[call-overload]
    with pytest.raises(OptionError, match="batch is 0"):
        captioner.caption([image], color="rgb", batch=0)
    with pytest.raises(OptionError, match=r"batch is 2\.0; .*a whole number"):
        captioner.caption([image], color="rgb", batch=2.0)  # type: ignore[call-overload]


def test_a_search_that_can_find_nothing_says_so(captioner: Captioner, toy: Any) -> None:
    words = captioner.bundle.vocabulary.tokens
    # <unk>, which the bundle bans by itself, does not count.
    message = f"no caption is possible: min_words 1, {len(words) - 1} banned words leave no word over"
    with pytest.raises(OptionError, match=message):
        captioner.caption(toy.images(1)[0], color="rgb", ban=words, min_words=1)


def test_an_empty_caption_is_a_caption(captioner: Captioner, toy: Any) -> None:
    words = [word for word in captioner.bundle.vocabulary.tokens if word != "</s>"]
    caption = captioner.caption(toy.images(1)[0], color="rgb", ban=words, beams=1)
    assert (caption.text, caption.words, caption.truncated) == ("", (), False)
    assert caption.attention.shape == (0, 2, 2)


def test_a_closed_captioner_says_so(toy_bundle: Bundle, toy: Any) -> None:
    with Captioner.load(toy_bundle.path, threads=1) as captioner:
        captioner.caption(toy.images(1)[0], color="rgb")
    captioner.close()
    with pytest.raises(EngineError, match="closed"):
        captioner.caption(toy.images(1)[0], color="rgb")


def test_many_threads_may_share_one_captioner(captioner: Captioner, toy: Any) -> None:
    images = toy.images(6)
    expected = [key(captioner.caption(image, color="rgb", nbest=2)) for image in images]
    wrong: list[int] = []

    def work(first: int) -> None:
        for turn in range(30):
            index = (first + turn) % len(images)
            many = turn % 3 == 0
            found = captioner.caption([images[index]] * 2, color="rgb", nbest=2)[1] if many else None
            found = found or captioner.caption(images[index], color="rgb", nbest=2)
            if [item[0] for item in key(found)] != [item[0] for item in expected[index]]:
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_precision_is_the_manifests_for_cpus_unless_named(
    make_toy: Callable[..., Path], toy: Any, tmp_path: Path
) -> None:
    def two(manifest: Manifest) -> Manifest:
        pair = manifest.precisions["float32"]
        return dataclasses.replace(manifest, precisions={"float32": pair, "int8": pair}, cpu_precision="int8")

    folder = make_toy(tmp_path / "toy", toy, change=two)
    assert Captioner.load(folder, backend="cpu", threads=1).choice.precision == "int8"
    assert Captioner.load(folder, backend="cpu", precision="float32", threads=1).choice.precision == "float32"
    with pytest.raises(OptionError, match="fp16"):
        Captioner.load(folder, backend="cpu", precision="fp16")


@pytest.mark.parametrize("threads", ["2", 1.5, 0, True])
def test_threads_are_a_whole_number(toy_bundle: Bundle, threads: Any) -> None:
    with pytest.raises(OptionError, match=r"threads is .*; expected 1 to 1024, a whole number"):
        Captioner.load(toy_bundle.path, threads=threads)


def test_a_missing_bundle_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such bundle folder"):
        Captioner.load(tmp_path / "none")
