"""The selection as ONNX equals its definition exactly, and the states follow their beams."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from camscribe.export.beam_graph import constants, gather_nodes, select_nodes, value_info
from camscribe.runtime.search import DEAD, select

END = 2
OUTPUTS = ("next_token", "next_parent", "next_score", "ended_score", "ended_parent")


def _session(nodes: list[Any], inputs: list[Any], outputs: list[Any], words: int) -> Any:
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializer=constants(words, END))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@functools.cache
def _select_session(words: int) -> Any:
    inputs = [
        value_info("log_prob", "float32", ("B", "K", words)),
        value_info("score", "float32", ("B", "K")),
        value_info("step", "int32", (1,)),
        value_info("min_words", "int32", (1,)),
        value_info("bias", "float32", (words,)),
    ]
    outputs = [value_info(name, "float32" if "score" in name else "int32", ("B", "K")) for name in OUTPUTS]
    return _session(select_nodes(words), inputs, outputs, words)


@given(
    seed=st.integers(0, 2**32 - 1),
    images=st.integers(1, 4),
    beams=st.integers(1, 6),
    words=st.sampled_from([3, 4, 5, 17, 300, 1024, 1031]),  # the last two in groups, without and with padding
    ties=st.booleans(),
    dead=st.integers(0, 5),
    banned=st.integers(0, 3),
    rare_end=st.booleans(),
    step=st.integers(0, 3),
    min_words=st.integers(0, 3),
)
def test_selection_in_onnx_equals_the_definition_exactly(
    seed: int,
    images: int,
    beams: int,
    words: int,
    ties: bool,
    dead: int,
    banned: int,
    rare_end: bool,
    step: int,
    min_words: int,
) -> None:
    generator = np.random.default_rng(seed)
    log_prob = -generator.exponential(2, (images, beams, words)).astype(np.float32)
    score = -generator.exponential(5, (images, beams)).astype(np.float32)
    if ties:
        log_prob, score = np.round(log_prob), np.round(score)
    if rare_end:
        log_prob[:, :, END] -= 20
    if dead:
        score[:, -dead:] = DEAD
    bias = np.zeros(words, np.float32)
    bias[generator.integers(0, words, banned)] = DEAD
    feeds = {
        "log_prob": log_prob,
        "score": score,
        "step": np.array([step], np.int32),
        "min_words": np.array([min_words], np.int32),
        "bias": bias,
    }
    found = _select_session(words).run(OUTPUTS, feeds)
    expected = select(log_prob, score, step, min_words, bias, END)
    for name, mine, definition in zip(OUTPUTS, found, expected, strict=True):
        np.testing.assert_array_equal(mine, definition, err_msg=name)


@pytest.mark.parametrize("shape", [(7,), (2, 3, 4)])
def test_states_of_any_rank_follow_their_parents(shape: tuple[int, ...]) -> None:
    inputs = [value_info("parent", "int32", ("B", "K")), value_info("state.x", "float32", ("B", "K", *shape))]
    outputs = [value_info("gathered.x", "float32", ("B", "K", *shape))]
    session = _session(gather_nodes(["x"]), inputs, outputs, 5)
    state = np.random.default_rng(0).normal(size=(2, 3, *shape)).astype(np.float32)
    parent = np.array([[2, 2, 0], [1, 0, 2]], np.int32)
    (found,) = session.run(None, {"parent": parent, "state.x": state})
    np.testing.assert_array_equal(found, np.stack([state[image, parent[image]] for image in range(2)]))
