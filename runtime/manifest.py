"""The manifest of a bundle, ``bundle.json``: everything about a captioner but its words and weights.

The dataclasses are the schema: every field is required, an unknown one is refused, and a change of them raises
``SCHEMA``. Older schemas stay readable.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from camscribe.runtime import typed_json
from camscribe.runtime.errors import BundleError, OptionError
from camscribe.runtime.pixels import PixelSpec
from camscribe.runtime.search import SearchOptions

SCHEMA = 1
"""Version of the manifest this release writes."""

KINDS = ("captioner", "enhancer")
BOXES = "boxes"
"""An encoder's output that says where the positions of the attention lie, where they are no cells of a grid: float32
[B, P, 4], left, top, right and bottom as fractions of what the model sees. The first is the whole of it; zeros are
padding."""
Graph = Literal["encoder", "decoder"]
Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph."""

    name: str
    dtype: Literal["float32", "float16", "int32", "uint8"]
    shape: tuple[int | str, ...]
    """A number, or the name of a size that is free: B images, K beams, P positions, V words."""

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class GraphSpec:
    """One ONNX graph."""

    file: str
    external: tuple[str, ...]
    """Files its weights lie in, where they do not lie in the graph."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def differences(self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> list[str]:
        """What the graph's real tensors have otherwise than this says, one line each.

        A free size matches any: libraries differ in how far they infer the shapes of outputs.
        """
        problems = []
        for side, expected, found in (("input", self.inputs, inputs), ("output", self.outputs, outputs)):
            real = {spec.name: spec for spec in found}
            for spec in expected:
                if spec.name not in real:
                    problems.append(f"{self.file} has no {side} {spec.name}")
                elif not _matches(spec, real[spec.name]):
                    problems.append(f"{self.file} has {side} {real[spec.name]}; expected {spec}")
            known = {spec.name for spec in expected}
            problems += [f"{self.file} has an unknown {side} {spec}" for spec in found if spec.name not in known]
        return problems


@dataclass(frozen=True)
class GraphPair:
    """The two graphs of one precision."""

    encoder: GraphSpec
    decoder: GraphSpec

    @property
    def has_boxes(self) -> bool:
        """Whether the encoder says where each position of the attention lies; see ``BOXES``."""
        return any(spec.name == BOXES for spec in self.encoder.outputs)


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the tokens that are no words."""

    pad: int
    start: int
    end: int
    unknown: int


@dataclass(frozen=True)
class Parity:
    """What the exporting machine saw, so that another one can prove itself without PyTorch."""

    images: tuple[str, ...]
    """Reduced images as PNG (uint8 RGB of the pixel spec's size) in base64."""
    tokens: dict[str, tuple[tuple[int, ...], ...]]
    """By precision, for each image: the words of its best caption under the bundle's own search defaults."""
    figures: dict[str, Any]
    """By precision: how far the graphs are from PyTorch, in tensors and in captions."""


@dataclass(frozen=True)
class FileEntry:
    """One file of the bundle."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The whole of ``bundle.json``."""

    schema: int
    kind: Literal["captioner"]
    name: str
    architecture: dict[str, Any]
    """What the model is, as the training configuration says it."""
    vocabulary_size: int
    special_tokens: SpecialTokens
    pixels: PixelSpec
    attention_grid: tuple[int, int]
    """Rows and columns of the positions P of the attention, row by row; one row where they are boxes."""
    search: SearchOptions
    """The defaults a caption is searched with. Their ``ban`` holds ``<unk>`` where that word is not wanted."""
    precisions: dict[str, GraphPair]
    """``float32`` always, ``fp16`` and ``int8`` where they exist."""
    cpu_precision: str
    """The precision taken on a CPU when none is named: the fastest that is good enough."""
    provenance: dict[str, Any]
    """Data, configuration, steps, versions and dates of the training."""
    quality: dict[str, Any]
    """Measured caption scores by precision."""
    parity: Parity
    files: dict[str, FileEntry]
    """Every other file of the bundle."""

    @property
    def has_boxes(self) -> bool:
        """Whether the attention is on boxes that the encoder finds, not on the cells of a grid."""
        return self.precisions["float32"].has_boxes

    def precision_for(self, device: Device, precision: str | None) -> str:
        """The precision to open on ``device``, where ``precision`` is the user's wish.

        Raises:
            OptionError: the bundle has no such precision.
        """
        if precision is None:
            return self.cpu_precision if device == "cpu" else "float32"
        if precision not in self.precisions:
            raise OptionError(
                f"precision is {precision!r}; bundle {self.name!r} has {', '.join(sorted(self.precisions))}"
            )
        return precision

    def files_of(self, precision: str) -> list[str]:
        """Names of the files that the graphs of ``precision`` consist of."""
        pair = self.precisions[precision]
        return sorted({name for graph in (pair.encoder, pair.decoder) for name in (graph.file, *graph.external)})


def parse_manifest(text: str, kind: str) -> dict[str, Any]:
    """Reads ``bundle.json`` as far as all kinds of bundles have it in common.

    Args:
        text: the file.
        kind: what is expected: ``captioner`` or ``enhancer``.

    Raises:
        BundleError: it is no manifest of a schema that this release reads, or of another kind.
    """
    try:
        value = typed_json.parse(text)
    except ValueError as error:
        raise BundleError(f"bundle.json is not valid JSON ({error})") from error
    if not isinstance(value, dict) or type(value.get("schema")) is not int:
        raise BundleError("bundle.json has no schema version; expected a bundle written by camscribe export")
    if value["schema"] != SCHEMA:
        raise BundleError(
            f"bundle.json has schema {value['schema']}; this release reads schema {SCHEMA}: "
            f"{'upgrade camscribe' if value['schema'] > SCHEMA else 'export the bundle again'}"
        )
    if value.get("kind") in KINDS and value["kind"] != kind:
        raise BundleError(f"bundle.json is of kind {value['kind']!r}; expected {kind!r}")
    return value


def read_manifest(text: str) -> Manifest:
    """Reads a captioner's ``bundle.json``.

    Raises:
        BundleError: one line that lists everything wrong.
    """
    value = parse_manifest(text, "captioner")
    problems: list[str] = []
    manifest = typed_json.decode(Manifest, value, "manifest", problems)
    if not problems:
        problems = _contradictions(manifest)
    if problems:
        raise BundleError(f"bundle.json: {'; '.join(problems)}")
    result: Manifest = manifest
    return result


def unsafe_names(files: Iterable[str]) -> list[str]:
    """What is wrong with names of files: a manifest may come from anywhere, and must not reach outside its folder."""
    return [
        f"files has {name!r:.60}; expected a plain file name"
        for name in files
        if not name or name in (".", "..", "bundle.json") or any(character in name for character in "/\\:\0")
    ]


def _contradictions(manifest: Manifest) -> list[str]:
    """What is well formed, but cannot be."""
    problems = []
    if "float32" not in manifest.precisions:
        problems.append("precisions lacks float32")
    if manifest.cpu_precision not in manifest.precisions:
        problems.append(f"cpu_precision is {manifest.cpu_precision!r:.60}, which is not among precisions")
    ids = typed_json.encode(manifest.special_tokens)
    if len(set(ids.values())) != len(ids) or not all(0 <= index < manifest.vocabulary_size for index in ids.values()):
        problems.append(f"special_tokens are {ids}; expected different ids below {manifest.vocabulary_size}")
    if min(manifest.attention_grid) < 1:
        problems.append(f"attention_grid is {manifest.attention_grid}; expected rows and columns")
    problems += unsafe_names(manifest.files)
    needed = {"vocab.txt"}.union(*(manifest.files_of(precision) for precision in manifest.precisions))
    problems += [f"files lacks {name:.60}" for name in sorted(needed - set(manifest.files))]
    for precision, pair in manifest.precisions.items():
        problems += [f"precision {precision:.60}: {line}" for line in _size_problems(pair)]
        problems += [f"precision {precision:.60}: {line}" for line in _interface_problems(manifest, pair)]
        if pair.has_boxes != manifest.precisions.get("float32", pair).has_boxes:
            problems.append(f"precision {precision:.60} and float32: only one has an output {BOXES}")
    for precision, tokens in manifest.parity.tokens.items():
        if precision not in manifest.precisions or len(tokens) != len(manifest.parity.images):
            problems.append(f"parity.tokens of {precision:.60} do not fit its precisions and images")
        elif any(not 0 <= token < manifest.vocabulary_size for caption in tokens for token in caption):
            problems.append(f"parity.tokens of {precision:.60} hold ids outside the vocabulary")
    return problems


def _size_problems(pair: GraphPair) -> list[str]:
    """Tensors with sizes that none has."""
    specs = (*pair.encoder.inputs, *pair.encoder.outputs, *pair.decoder.inputs, *pair.decoder.outputs)
    return [
        f"tensor {spec} has sizes that none has"
        for spec in specs
        if any(isinstance(size, int) and not 1 <= size < 10**12 for size in spec.shape)
    ]


def _interface_problems(manifest: Manifest, pair: GraphPair) -> list[str]:
    """Where the specs of two graphs are not the interface that the executors drive."""
    pixels, words = manifest.pixels, manifest.vocabulary_size
    positions = manifest.attention_grid[0] * manifest.attention_grid[1]
    image = GraphSpec("encoder", (), (TensorSpec("image", "uint8", ("B", pixels.height, pixels.width, 3)),), ())
    problems = image.differences(pair.encoder.inputs, ())
    memory, state = _prefixed(pair.encoder.outputs, "memory."), _prefixed(pair.encoder.outputs, "state.")
    problems += [
        f"encoder has output {spec}; expected memory.*, state.* or {BOXES}"
        for spec in pair.encoder.outputs
        if spec not in memory + state and spec.name != BOXES
    ]
    problems += _box_problems(manifest, pair)
    problems += [f"encoder has output {spec}; expected the images first" for spec in memory + state if not spec.shape]
    beams = tuple(TensorSpec(spec.name, spec.dtype, ("B", "K", *spec.shape[1:])) for spec in state)
    pair_of_ids = ("B", "K")
    decoder = GraphSpec(
        "decoder",
        (),
        inputs=(
            TensorSpec("token", "int32", pair_of_ids),
            TensorSpec("parent", "int32", pair_of_ids),
            TensorSpec("score", "float32", pair_of_ids),
            TensorSpec("step", "int32", (1,)),
            TensorSpec("min_words", "int32", (1,)),
            TensorSpec("bias", "float32", (words,)),
            *beams,
            *memory,
        ),
        outputs=(
            TensorSpec("next_token", "int32", pair_of_ids),
            TensorSpec("next_parent", "int32", pair_of_ids),
            TensorSpec("next_score", "float32", pair_of_ids),
            TensorSpec("ended_score", "float32", pair_of_ids),
            TensorSpec("ended_parent", "int32", pair_of_ids),
            *(TensorSpec(f"next_{spec.name}", spec.dtype, spec.shape) for spec in beams),
            TensorSpec("attention", "float32", ("B", "K", positions)),
            TensorSpec("log_prob", "float32", ("B", "K", words)),
        ),
    )
    return problems + decoder.differences(pair.decoder.inputs, pair.decoder.outputs)


def _box_problems(manifest: Manifest, pair: GraphPair) -> list[str]:
    """Where the output that places the positions is not what its readers take for granted."""
    rows, columns = manifest.attention_grid
    boxes = [spec for spec in pair.encoder.outputs if spec.name == BOXES]
    problems = [
        f"encoder has output {spec}; expected {BOXES} float32[B,{rows * columns},4]"
        for spec in boxes
        if spec.dtype != "float32" or spec.shape not in (("B", rows * columns, 4), ("B", "P", 4))
    ]
    if boxes and rows != 1:
        problems.append(f"attention_grid is {manifest.attention_grid}; expected one row, as the encoder gives {BOXES}")
    return problems


def _prefixed(specs: Sequence[TensorSpec], prefix: str) -> list[TensorSpec]:
    return [spec for spec in specs if spec.name.startswith(prefix)]


def _matches(expected: TensorSpec, found: TensorSpec) -> bool:
    return (
        expected.dtype == found.dtype
        and len(expected.shape) == len(found.shape)
        and all(
            a == b or isinstance(a, str) or isinstance(b, str) for a, b in zip(expected.shape, found.shape, strict=True)
        )
    )
