"""The library's front door: images in, captions out."""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, overload

import numpy as np

from camscribe.runtime.bundle import Bundle
from camscribe.runtime.caption import Caption, Sentence, Timings
from camscribe.runtime.errors import EngineError, OptionError, SourceError, did_you_mean
from camscribe.runtime.executor import Backend, Choice, Executor, open_executor, search
from camscribe.runtime.images import Color, ImageLike, as_rgb, is_on_gpu
from camscribe.runtime.pixels import Pixels, PixelSpec, in_whole_image, opencv, reduce
from camscribe.runtime.search import Floats, Hypothesis, SearchOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from camscribe.runtime.cuda.arrays import DeviceImage
    from camscribe.runtime.enhancer import Enhancer, SmallImages
    from camscribe.runtime.guided.guide import Guide
    from camscribe.runtime.guided.options import GuidedChanges

_FIELDS = frozenset(field.name for field in fields(SearchOptions))
BATCH = 8
"""Images that are captioned together when more are given."""


class Captioner:
    """A loaded bundle, ready to caption.

    Thread-safe: any number of threads may call ``caption`` of one captioner. Images are read and reduced in parallel,
    the graphs run for one call at a time (each run uses all the threads it was given). A result belongs to its caller.

    Use it as a context manager, or ``close`` it, to give its memory back early.
    """

    def __init__(self, bundle: Bundle, executor: Executor, choice: Choice, others: Sequence[Bundle] = ()) -> None:
        self.bundle = bundle
        self.bundles = (bundle, *others)
        """The one it has, or those of an ensemble, in the order of its executors."""
        self.choice = choice
        """Backend and precision taken, with the reasons."""
        self._executor: Executor | None = executor
        self._lock = threading.Lock()
        self._options = bundle.manifest.search
        self._specs = tuple(each.manifest.pixels for each in self.bundles)
        self._small: SmallImages | None = None
        self._biases: dict[tuple[str, ...], Floats] = {}

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
        backend: Backend = "auto",
        precision: str | None = None,
        threads: int | None = None,
    ) -> Captioner:
        """Loads a bundle.

        Args:
            path: the bundle's folder; None for the one that comes with the package. A list of folders is an ensemble:
                the mean of the bundles' probabilities decides each word.
            backend: where the graphs run; ``auto`` takes the fastest that works here, see ``choice``.
            precision: one the bundle has, such as ``float32`` or ``int8``; None for its default on that device.
            threads: CPU threads; None for one per physical core.

        Raises:
            BundleError: the bundle is missing or cannot be used.
            EngineError: the backend does not work here.
            OptionError: an argument has no meaning.
        """
        if isinstance(path, list | tuple):
            return cls._load_ensemble([Path(each) for each in path], backend, precision, threads)
        folder = None if path is None else Path(path)  # type: ignore[arg-type]  # no sequence
        return cls(*open_executor(folder, backend, precision, threads, meanwhile=_import_libraries))

    @classmethod
    def _load_ensemble(
        cls, folders: list[Path], backend: Backend, precision: str | None, threads: int | None
    ) -> Captioner:
        from camscribe.runtime.guided.ensemble import EnsembleExecutor, check_alike

        if not folders:
            raise OptionError("an empty list names no bundle; expected at least one folder")
        opened: list[tuple[Bundle, Executor, Choice]] = []
        try:
            opened.extend(open_executor(folder, backend, precision, threads) for folder in folders)
            bundles = [bundle for bundle, _, _ in opened]
            check_alike(bundles)
        except BaseException:
            for _, executor, _ in opened:
                executor.close()
            raise
        bundle, _, choice = opened[0]
        ensemble = EnsembleExecutor([executor for _, executor, _ in opened], bundle.vocabulary.end_id)
        return cls(bundle, ensemble, choice, bundles[1:])

    @overload
    def caption(
        self,
        images: ImageLike,
        color: Color | None = None,
        *,
        ban: Sequence[str] = (),
        batch: int = BATCH,
        **changes: Unpack[GuidedChanges],
    ) -> Caption: ...

    @overload
    def caption(
        self,
        images: list[ImageLike] | tuple[ImageLike, ...],
        color: Color | None = None,
        *,
        ban: Sequence[str] = (),
        batch: int = BATCH,
        **changes: Unpack[GuidedChanges],
    ) -> list[Caption]: ...

    def caption(
        self,
        images: ImageLike | list[ImageLike] | tuple[ImageLike, ...],
        color: Color | None = None,
        *,
        ban: Sequence[str] = (),
        batch: int = BATCH,
        **changes: Unpack[GuidedChanges],
    ) -> Caption | list[Caption]:
        """Captions an image, or each of a list of images.

        Args:
            images: one image or a list of them: paths, PIL images, uint8 numpy arrays [h, w, 3] or [h, w], or such
                arrays on the GPU (DLPack, ``__cuda_array_interface__``), which TensorRT reads where they lie.
            color: ``"rgb"`` or ``"bgr"``, required for arrays of three channels; ``"nv12"`` for arrays [h * 3 / 2, w]
                of a camera; paths and PIL images know theirs.
            ban: words that may not appear, besides those that the bundle bans.
            batch: how many images go through the graphs together. Changes the time, never a caption.
            changes: ``beams``, ``length_penalty``, ``max_words``, ``min_words``, ``nbest`` and ``stop``, see
                ``SearchOptions``; what is left out or None is as the bundle has it. Also what is off by default:
                ``no_repeat``, ``contain``, ``sample`` and others, see ``GuidedOptions``.

        Returns:
            A caption, or a list of them in the order of the images.

        Raises:
            SourceError: an image cannot be read; of a list, the first one is named and no caption is returned.
            OptionError: an option has no meaning, or bans a word that the model does not have.
            EngineError: the device failed, or the captioner is closed.
        """
        options = self.options(ban, **changes)
        if not isinstance(images, list | tuple):
            return self._caption_batch([self._prepare(images, color)], options)[0]
        captions = []
        for index, result in enumerate(self.caption_each(images, options, color, batch=batch)):
            if isinstance(result, SourceError):
                raise SourceError(f"image {index} of {len(images)}: {result}") from result
            captions.append(result)
        return captions

    def enhance_below(self, below: int, enhancer: Enhancer) -> None:
        """From now on, enhances images whose shorter side has fewer than ``below`` pixels before they are captioned.

        Its cost is ``enhance_ms`` in the timings. Images on a GPU are not enhanced.

        Args:
            below: see above.
            enhancer: stays the caller's, who closes it after the last caption.

        Raises:
            OptionError: ``below`` has no meaning.
        """
        from camscribe.runtime.enhancer import SmallImages

        self._small = SmallImages(enhancer, below)

    def options(self, ban: Sequence[str] = (), **changes: Unpack[GuidedChanges]) -> SearchOptions:
        """The bundle's search options with changes, see ``caption``.

        Raises:
            OptionError: the options have no meaning, or ``ban`` or ``contain`` has a word that the model does not have.
        """
        if not ban and not changes:
            return self._options
        given: object = ban
        words = isinstance(given, Collection) and all(isinstance(word, str) for word in given)
        if isinstance(given, str) or not words:
            raise OptionError(f"ban is {ban!r}; expected a list of words")
        for word in ban:
            if word not in self.bundle.vocabulary:
                close = did_you_mean(word, self.bundle.vocabulary.tokens)
                raise OptionError(f"ban has {word!r}, which is not a word of this model{close}")
        options = self._options
        wanted = {name: value for name, value in changes.items() if value is not None}
        if not wanted.keys() <= _FIELDS:
            from camscribe.runtime.guided.options import GuidedOptions

            options = GuidedOptions(**vars(options))
        options = options.override(ban=(*options.ban, *ban), **wanted)
        self._guide(options, 1)  # which refuses a wanted word that cannot be said, before anything is captioned
        return options

    def caption_each(
        self,
        images: Iterable[ImageLike],
        options: SearchOptions | None = None,
        color: Color | None = None,
        *,
        batch: int = BATCH,
    ) -> Iterator[Caption | SourceError]:
        """Captions many images as they come, ``batch`` of them at a time; one that cannot be read gives its error.

        Args:
            images: any number of images; as many are held in memory as are captioned together.
            options: see ``options``; None for the bundle's own.
            color: see ``caption``.
            batch: at least 1.

        Raises:
            OptionError: ``batch`` or ``color`` has no meaning.
            EngineError: the device failed, or the captioner is closed.
        """
        check_batch(batch)
        return self._each(images, options or self._options, color, batch)

    def _each(
        self, images: Iterable[ImageLike], options: SearchOptions, color: Color | None, batch: int
    ) -> Iterator[Caption | SourceError]:
        rest = iter(images)
        while chunk := list(islice(rest, batch)):
            prepared = [self._prepare_or_error(image, color) for image in chunk]
            good = [item for item in prepared if isinstance(item, _Prepared)]
            captions = iter(self._caption_batch(good, options) if good else ())
            for item in prepared:
                yield item if isinstance(item, SourceError) else next(captions)

    def close(self) -> None:
        """Gives memory and threads back. The captioner cannot be used afterwards; closing it again does nothing."""
        with self._lock:
            if self._executor is not None:
                self._executor.close()
            self._executor = None

    def __enter__(self) -> Captioner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepare(self, image: ImageLike, color: Color | None) -> _Prepared:
        specs = dict.fromkeys(self._specs)
        start = perf_counter()
        if is_on_gpu(image):
            from camscribe.runtime.cuda.arrays import device_image

            on_device = device_image(image, color)
            return _Prepared(
                dict.fromkeys(specs, on_device), perf_counter() - start, 0.0, (on_device.height, on_device.width)
            )
        # Twice the size leaves the area filter enough to give the same picture.
        pixels = as_rgb(image, color, at_least=2 * max(max(spec.height, spec.width) for spec in specs))
        read = perf_counter()
        enhance_ms = 0.0
        if self._small is not None:
            pixels, enhance_ms = self._small(pixels)
        enhanced = perf_counter()
        size = (pixels.shape[0], pixels.shape[1])
        reduced: dict[PixelSpec, Pixels | DeviceImage] = {spec: reduce(pixels, spec) for spec in specs}
        return _Prepared(reduced, read - start, perf_counter() - enhanced, size, enhance_ms)

    def _prepare_or_error(self, image: ImageLike, color: Color | None) -> _Prepared | SourceError:
        try:
            return self._prepare(image, color)
        except SourceError as error:
            return error

    def _caption_batch(self, items: list[_Prepared], options: SearchOptions) -> list[Caption]:
        pixels = {spec: _together([item.pixels[spec] for item in items]) for spec in items[0].pixels}
        bias = self._bias(options.ban)
        with self._lock:
            if self._executor is None:
                raise EngineError("this captioner is closed; load it again")
            while True:
                start = perf_counter()
                guide = self._guide(options, len(items))
                try:
                    told = options if guide is None else guide.executor_options
                    if len(pixels) == 1:
                        self._executor.encode(pixels[self._specs[0]], told, bias)
                    else:
                        # Of an ensemble whose bundles want images of several sizes.
                        self._executor.encode_each([pixels[spec] for spec in self._specs], told, bias)  # type: ignore[attr-defined]
                    encoded = perf_counter()
                    found = search(self._executor, options, guide)
                    decoded = perf_counter()
                    host_s: float = getattr(self._executor, "seconds", 0.0)  # of an ensemble, which the host averages
                    boxes = self._boxes(self._executor, items)
                    break
                except EngineError as error:
                    # A FallbackExecutor has it, and an ensemble of such.
                    give_up = getattr(self._executor, "give_up", None)
                    if give_up is None or not give_up(error):
                        raise
        sentences = [tuple(map(self._sentence, hypotheses)) for hypotheses in found]
        if not all(sentences):
            raise OptionError(_impossible(options, self._options.ban))
        share = 1e3 / len(items)
        encode_ms, decode_ms = (encoded - start) * share, (decoded - encoded) * share
        words_ms = (perf_counter() - decoded) * share
        select_ms = ((0.0 if guide is None else guide.seconds) + host_s) * share
        stages = (encode_ms, decode_ms, words_ms)
        return [
            Caption(
                each,
                Timings(item.read_s * 1e3, item.reduce_s * 1e3, *stages, item.enhance_ms, select_ms),
                box,
            )
            for item, each, box in zip(items, sentences, boxes, strict=True)
        ]

    def _boxes(self, executor: Executor, items: list[_Prepared]) -> Sequence[Floats | None]:
        """``Caption.boxes`` of each image that ``executor`` has encoded."""
        if not self.bundle.manifest.has_boxes:
            return [None] * len(items)
        found = executor.boxes()
        if found is None:
            raise EngineError("the executor gave no boxes")
        return [
            in_whole_image(boxes, *item.size, self.bundle.manifest.pixels)
            for item, boxes in zip(items, found, strict=True)
        ]

    def _guide(self, options: SearchOptions, images: int) -> Guide | None:
        """What selects on the host, where the options need it."""
        if type(options) is SearchOptions:
            return None
        from camscribe.runtime.guided.guide import Guide
        from camscribe.runtime.guided.options import GuidedOptions

        if not isinstance(options, GuidedOptions) or not options.on_host:
            return None
        return Guide(options, self.bundle.vocabulary, images)

    def _sentence(self, hypothesis: Hypothesis) -> Sentence:
        words = tuple(self.bundle.vocabulary.decode(hypothesis.tokens))
        attention = hypothesis.attention
        if attention is None:
            raise EngineError("the executor gave no attention")
        return Sentence(
            " ".join(words),
            words,
            hypothesis.log_prob,
            hypothesis.score,
            hypothesis.truncated,
            attention.reshape(len(words), *self.bundle.manifest.attention_grid),
        )

    def _bias(self, ban: tuple[str, ...]) -> Floats:
        """``Vocabulary.bias``, made once."""
        bias = self._biases.get(ban)
        if bias is None:
            bias = self.bundle.vocabulary.bias(ban)
            self._biases = {ban: bias}
        return bias


def check_batch(batch: int) -> None:
    """Refuses what is no number of images to caption together.

    Raises:
        OptionError: it is no whole number from 1 to 1024.
    """
    if not isinstance(batch, int | np.integer) or not 1 <= batch <= 1024:
        raise OptionError(f"batch is {batch}; expected 1 to 1024, a whole number")


def _together(images: list[Pixels | DeviceImage]) -> Pixels | list[Pixels | DeviceImage]:
    """One array, where none of the images is on a GPU."""
    arrays = [image for image in images if isinstance(image, np.ndarray)]
    if len(arrays) < len(images):
        return images
    return arrays[0][None] if len(arrays) == 1 else np.stack(arrays)


def _impossible(options: SearchOptions, own: tuple[str, ...]) -> str:
    """Why a search found nothing at all; ``own`` are the words that the bundle bans by itself."""
    wanted: tuple[str, ...] = getattr(options, "contain", ())
    on = [f"contain {' '.join(wanted)}"] if wanted else []
    on += ["no_bad_endings"] if getattr(options, "no_bad_endings", False) else []
    on += [f"max_words {options.max_words}"] if on else []  # else any length would do
    no_repeat: int = getattr(options, "no_repeat", 0)
    on += [f"no_repeat {no_repeat}"] if no_repeat else []
    on += [f"min_words {options.min_words}"] if options.min_words else []
    banned = len({*options.ban} - {*own})
    on += [f"{banned} banned word{'s' * (banned > 1)}"] if banned else []
    why = ", ".join(on) or "the bundle's own bans"
    return f"no caption is possible: {why} leave no word over; change one of them"


def _import_libraries() -> None:
    """Imports what the first image would wait for."""
    opencv()
    # What opens most photographs, and most of Pillow with it.
    importlib.import_module("PIL.JpegImagePlugin")


@dataclass(frozen=True)
class _Prepared:
    """An image reduced to each size that is wanted of it, and what that cost."""

    pixels: dict[PixelSpec, Pixels | DeviceImage]
    read_s: float
    reduce_s: float
    size: tuple[int, int]
    """Rows and columns before it was reduced."""
    enhance_ms: float = 0.0
