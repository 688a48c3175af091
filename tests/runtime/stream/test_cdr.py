"""Our CDR against that of ``rosbags``, in both directions."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camscribe.runtime.stream.cdr import CompressedImage, DiagnosticArray, DiagnosticStatus, Image, String, image_of
from camscribe.runtime.stream.source import FrameError

typesys = pytest.importorskip("rosbags.typesys", reason="rosbags is not installed")
STORE = typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)

NS = 1_000_000_000
stamps = st.integers(-(2**31) * NS, 2**31 * NS - 1)
# A zero ends a string in CDR, and surrogates have no bytes.
texts = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=40)
sizes = st.integers(0, 2**32 - 1)
blocks = st.binary(max_size=300)


def theirs(kind: str, **fields: Any) -> Any:
    """A message of ``rosbags``."""
    return STORE.types[kind](**fields)


def header(stamp_ns: int, frame_id: str) -> Any:
    stamp = theirs("builtin_interfaces/msg/Time", sec=stamp_ns // NS, nanosec=stamp_ns % NS)
    return theirs("std_msgs/msg/Header", stamp=stamp, frame_id=frame_id)


def as_theirs(message: Any) -> Any:
    """One of our messages as one of ``rosbags``."""
    if isinstance(message, String):
        return theirs(message.TYPE, data=message.data)
    head = header(message.stamp_ns, message.frame_id)
    if isinstance(message, DiagnosticArray):
        status = [
            theirs(
                "diagnostic_msgs/msg/DiagnosticStatus",
                level=item.level,
                name=item.name,
                message=item.message,
                hardware_id=item.hardware_id,
                values=[theirs("diagnostic_msgs/msg/KeyValue", key=key, value=value) for key, value in item.values],
            )
            for item in message.status
        ]
        return theirs(message.TYPE, header=head, status=status)
    data = np.frombuffer(message.data, np.uint8)
    if isinstance(message, CompressedImage):
        return theirs(message.TYPE, header=head, format=message.format, data=data)
    return theirs(
        message.TYPE,
        header=head,
        height=message.height,
        width=message.width,
        encoding=message.encoding,
        is_bigendian=int(message.big_endian),
        step=message.step,
        data=data,
    )


messages = st.one_of(
    st.builds(String, texts),
    st.builds(CompressedImage, stamps, texts, texts, blocks),
    st.builds(Image, stamps, texts, sizes, sizes, texts, st.booleans(), sizes, blocks),
    st.builds(
        DiagnosticArray,
        stamps,
        texts,
        st.lists(
            st.builds(
                DiagnosticStatus,
                st.integers(0, 3),
                texts,
                texts,
                texts,
                st.lists(st.tuples(texts, texts), max_size=3).map(tuple),
            ),
            max_size=3,
        ).map(tuple),
    ),
)


@settings(max_examples=40)
@given(messages)
def test_bytes_are_those_of_rosbags(message: Any) -> None:
    expected = bytes(STORE.serialize_cdr(as_theirs(message), message.TYPE))
    ours = message.encode()
    # They may pad the whole at its end.
    assert ours == expected[: len(ours)]
    assert not any(expected[len(ours) :])
    assert len(expected) - len(ours) < 4


@settings(max_examples=40)
@given(messages)
def test_rosbags_reads_what_we_write(message: Any) -> None:
    read = STORE.deserialize_cdr(message.encode(), message.TYPE)
    assert bytes(STORE.serialize_cdr(read, message.TYPE)) == bytes(
        STORE.serialize_cdr(as_theirs(message), message.TYPE)
    )


@settings(max_examples=40)
@given(messages, st.booleans())
def test_we_read_what_rosbags_writes_in_both_byte_orders(message: Any, little: bool) -> None:
    data = bytes(STORE.serialize_cdr(as_theirs(message), message.TYPE, little_endian=little))
    assert data[1] == little
    assert type(message).decode(data) == message


@settings(max_examples=40)
@given(messages, st.data())
def test_a_message_that_is_cut_off_is_refused(message: Any, data: Any) -> None:
    whole = message.encode()
    size = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(FrameError, match=r"cut off|begins with"):
        type(message).decode(whole[:size])


@settings(max_examples=40)
@given(st.sampled_from([Image, CompressedImage, String, DiagnosticArray]), st.binary(max_size=200), st.booleans())
def test_any_bytes_give_a_message_or_one_clear_error(kind: Any, noise: bytes, headed: bool) -> None:
    with contextlib.suppress(FrameError):
        kind.decode((b"\x00\x01\x00\x00" if headed else b"") + noise)
    with contextlib.suppress(FrameError):
        image_of((b"\x00\x01\x00\x00" if headed else b"") + noise)


image_messages = st.one_of(
    st.builds(CompressedImage, stamps, texts, st.sampled_from(["jpeg", "png", "bgr8; jpeg compressed bgr8"]), blocks),
    st.builds(
        Image, stamps, texts, sizes, sizes, st.sampled_from(["bgr8", "mono8", "nv12"]), st.booleans(), sizes, blocks
    ),
)


@settings(max_examples=40)
@given(image_messages)
def test_either_type_of_image_is_told_by_its_bytes(message: Any) -> None:
    assert image_of(message.encode()) == message


def test_other_messages_are_no_images() -> None:
    status = DiagnosticStatus(0, "camera", "fine", "usb", (("rate", "30"),))
    for message in (String("a man rides a wave"), String(""), DiagnosticArray(0, "", (status,))):
        with pytest.raises(FrameError, match="is no sensor_msgs/msg/Image"):
            image_of(message.encode())


def test_the_plain_form_of_xcdr2_is_read() -> None:
    data = String("a man").encode()
    assert String.decode(b"\x00\x07" + data[2:]).data == "a man"


def test_a_delimited_message_is_refused() -> None:
    with pytest.raises(FrameError, match="begins with 00 09"):
        String.decode(b"\x00\x09\x00\x00" + bytes(20))


def test_an_empty_string_may_come_without_its_zero() -> None:
    assert String.decode(b"\x00\x01\x00\x00\x00\x00\x00\x00").data == ""


def test_what_is_no_utf8_is_replaced() -> None:
    assert String.decode(b"\x00\x01\x00\x00\x02\x00\x00\x00\xff\x00").data == "�"


def test_a_zero_inside_a_text_does_not_end_it() -> None:
    assert String.decode(String("a\x00b").encode()).data == "a b"


def test_pixels_are_a_view_of_the_message() -> None:
    message = Image(5, "camera", 2, 2, "bgr8", False, 6, bytes(range(12)))
    data = bytearray(message.encode())
    view = Image.decode(data).data
    data[-12] = 99
    assert view[0] == 99
