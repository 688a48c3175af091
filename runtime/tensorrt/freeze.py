"""From a graph with free sizes to a frozen one, by ONNX Runtime alone: no onnx package is needed on the device.

The free sizes are B and K, of an enhancer H and W.

ONNX Runtime's own optimised file cannot be used: where a CPU lacks an operator in half precision, ONNX Runtime puts
casts to float32 around it, and drops some that are in the graph, so the islands of the typed FP16 graph would be lost.
But what it computed once is right. So its constants are taken over, and the nodes stay as export wrote them. That
makes the k of TopK a constant, as TensorRT wants it, and float32 weights of those that are stored in half precision.

The cache knows a graph by its file as it was exported: who changes what is made of it here, or in ``symmetric``, raises
``engine_cache.RECIPE``, so that engines of before are built again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from camscribe.runtime.bundle import Bundle
from camscribe.runtime.errors import BundleError, EngineError
from camscribe.runtime.manifest import Graph as GraphName
from camscribe.runtime.onnxruntime_executor import onnxruntime
from camscribe.runtime.tensorrt.onnx_file import Graph
from camscribe.runtime.tensorrt.symmetric import make_symmetric


def freeze(bundle: Bundle, precision: str, graph: GraphName, images: int, beams: int) -> bytes:
    """An ONNX file of one graph for B images and K beams, its weights inside and its 8-bit scales symmetric.

    Raises:
        BundleError: the graph is damaged, or of a kind that cannot be frozen.
        EngineError: ONNX Runtime is missing, or does not load the graph.
    """
    pair = bundle.manifest.precisions[precision]
    external = pair.encoder.external if graph == "encoder" else pair.decoder.external
    sizes = {"B": images} if graph == "encoder" else {"B": images, "K": beams}
    return freeze_graph(bundle.graph(precision, graph), external, sizes)


def freeze_graph(path: Path, external: Sequence[str], sizes: Mapping[str, int]) -> bytes:
    """An ONNX file of a graph with its free sizes given, its weights inside and its 8-bit scales symmetric.

    Args:
        path: the graph.
        external: files beside it that its weights may lie in.
        sizes: by the name of a free size.

    Raises:
        BundleError, EngineError: see ``freeze``.
    """
    folded = Graph(_fold(path, sizes))
    try:
        frozen = Graph(path.read_bytes())
        made = {name for node in frozen.nodes for name in node.outputs}
        frozen.freeze(sizes, {name: tensor for name, tensor in folded.weights.items() if name in made})
        frozen.inline(path.parent, frozenset(external))
        make_symmetric(frozen)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror})") from error
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from error
    free = [node for node in frozen.nodes if node.kind == "TopK" and node.inputs[1] not in frozen.weights]
    if free:
        raise BundleError(
            f"{path}: {len(free)} TopK take a k that is still free when {' and '.join(sizes)} are known; export the "
            "bundle again"
        )
    return frozen.to_bytes()


def _fold(path: Path, sizes: Mapping[str, int]) -> bytes:
    """The graph as ONNX Runtime optimises it for these sizes, constants computed."""
    try:
        runtime = onnxruntime()
    except EngineError as error:
        raise EngineError(
            f"engines are built with the help of ONNX Runtime on the CPU, also for TensorRT ({error}; on a Jetson: "
            "pip install onnxruntime); or copy the bundle with its engines from a device of the same kind"
        ) from error
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4  # what goes wrong is raised, and said in one line
    options.intra_op_num_threads = 1
    for name, size in sizes.items():
        options.add_free_dimension_override_by_name(name, size)
    with tempfile.TemporaryDirectory(prefix="camscribe-") as folder:
        target = Path(folder) / "frozen.onnx"
        options.optimized_model_filepath = str(target)
        try:
            runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            return target.read_bytes()
        except Exception as error:  # the errors of ONNX Runtime have no base of their own
            line = " ".join(str(error).split())[:300]
            raise EngineError(f"{path}: ONNX Runtime {runtime.__version__} cannot freeze it: {line}") from error
