"""A bundle's decoders are written anew from the bundle alone, and say what they said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from camscribe.export import renew
from camscribe.export.beam_graph import value_info
from camscribe.export.columns import turn_columns
from camscribe.export.command import main
from camscribe.export.onnx_export import new_model
from camscribe.export.parity import captions
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.errors import EngineError, OptionError

EXAMPLES = Path(__file__).parents[2] / "examples"


def _copy_with_another_selection(bundle: Bundle, folder: Path) -> None:
    """A copy of the bundle whose float32 decoder selects by the same nodes, and one more that does nothing."""
    shutil.copytree(bundle.path, folder)
    path = folder / bundle.manifest.precisions["float32"].decoder.file
    model = onnx.load(path, load_external_data=False)
    node = next(node for node in model.graph.node if "select.floored" in node.output)
    node.output[0] = "select.before"
    index = list(model.graph.node).index(node)
    model.graph.node.insert(index + 1, helper.make_node("Identity", ["select.before"], ["select.floored"]))
    path.write_bytes(model.SerializeToString())


def _operators(bundle: Bundle, precision: str) -> list[str]:
    model = onnx.load(bundle.graph(precision, "decoder"), load_external_data=False)
    return sorted(node.op_type for node in model.graph.node)


def test_the_selection_is_replaced_and_words_weights_and_tensors_stay(bundle: Bundle, tmp_path: Path) -> None:
    folder, draft_folder = tmp_path / "before", tmp_path / "after"
    _copy_with_another_selection(bundle, folder)
    shutil.copytree(folder, draft_folder)
    images = np.stack(bundle.parity_images())
    manifest = renew.renew_decoders(renew.Draft(draft_folder), folder, bundle.manifest, bundle.vocabulary, images)
    after = Bundle(draft_folder, manifest, bundle.vocabulary)
    assert "Identity" in _operators(Bundle(folder, manifest, bundle.vocabulary), "float32")
    for precision in ("float32", "int8"):
        assert _operators(after, precision) == _operators(bundle, precision)
    assert manifest.parity.tokens == bundle.manifest.parity.tokens
    for name, figure in bundle.manifest.parity.figures["float32"].items():
        assert manifest.parity.figures["float32"][name] >= figure or name in ("images", "same_captions")
    graph = after.graph("float32", "decoder")
    assert graph.stat().st_size < 1.1 * bundle.graph("float32", "decoder").stat().st_size  # weights lie outside


def test_the_command_renews_a_bundle(bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(bundle.path, folder)
    assert main(["--update", str(folder), "--renew"]) == 0
    renewed = Bundle.load(folder)
    assert renewed.manifest.parity.tokens == bundle.manifest.parity.tokens
    assert renewed.manifest.precisions == bundle.manifest.precisions


def test_the_command_quantises_the_encoder_of_a_bundle(bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(bundle.path, folder)
    written = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    written["precisions"]["int8"]["encoder"] = written["precisions"]["float32"]["encoder"]
    del written["files"]["encoder.int8.onnx"]
    (folder / "bundle.json").write_text(json.dumps(written), encoding="utf-8")
    (folder / "encoder.int8.onnx").unlink()
    before = Bundle.load(folder)
    assert main(["--update", str(folder), "--int8-encoder", "--calibration", str(EXAMPLES)]) == 0
    after = Bundle.load(folder)
    operators = {node.op_type for node in onnx.load(after.graph("int8", "encoder")).graph.node}
    assert {"QuantizeLinear", "Conv"} <= operators
    assert after.manifest.precisions == bundle.manifest.precisions
    kept = {name: entry for name, entry in after.manifest.files.items() if name != "encoder.int8.onnx"}
    assert kept == before.manifest.files
    found = captions(folder, after.manifest, after.vocabulary, "int8", np.stack(after.parity_images()))
    assert after.manifest.parity.tokens["int8"] == tuple(hypothesis.tokens for hypothesis in found)
    assert after.manifest.parity.tokens["float32"] == before.manifest.parity.tokens["float32"]
    figures = [each.manifest.parity.figures["int8"] for each in (before, after)]
    assert figures[1]["memory.features"] > figures[0]["memory.features"]


def test_a_bundle_without_int8_graphs_gets_no_int8_encoder(checkpoint: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "plain")
    assert main([str(checkpoint), "--out", out, "--no-int8", "--no-fp16", "--parity-images", str(EXAMPLES)]) == 0
    with pytest.raises(OptionError, match="has no int8 graphs"):
        main(["--update", out, "--int8-encoder", "--calibration", str(EXAMPLES)])


def test_graphs_that_say_something_else_are_not_written(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(bundle.path, folder)
    monkeypatch.setattr(renew, "LARGEST_CHANGE", {"float32": -1.0, "int8": 1.0})
    with pytest.raises(EngineError, match="renewed float32 graphs do not do what the bundle's did: log_prob is"):
        main(["--update", str(folder), "--renew"])
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
    assert Bundle.load(folder).manifest == bundle.manifest


@pytest.mark.parametrize("axes", [[-1], [3]])
def test_a_product_with_a_column_becomes_one_with_a_row(axes: list[int]) -> None:
    weight = np.random.default_rng(0).normal(size=(32, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Relu", ["x"], ["positive"]),
        helper.make_node("MatMul", ["positive", "w"], ["product"]),
        helper.make_node("Squeeze", ["product", "axes"], ["y"]),
        helper.make_node("MatMul", ["positive", "w"], ["kept"]),  # read as it is
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [value_info("x", "float32", ("B", "K", 7, 32))],
        [value_info("y", "float32", ("B", "K", 7)), value_info("kept", "float32", ("B", "K", 7, 1))],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array(axes), "axes")],
    )
    model = new_model(graph)
    turn_columns(model)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Relu", "Transpose", "MatMul", "Squeeze", "MatMul"]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).normal(size=(2, 3, 7, 32)).astype(np.float32)
    y, kept = session.run(None, {"x": x})
    np.testing.assert_allclose(y, (np.maximum(x, 0) @ weight)[..., 0], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(kept[..., 0].shape, y.shape)
