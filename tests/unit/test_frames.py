from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zolder.errors import LocalProtocolError, RemoteProtocolError
from zolder.frames import (
    ALIGNMENT_BYTES,
    HEAD_BYTES,
    MAX_DATA_BYTES,
    Frame,
    Head,
    Kind,
    Track,
    decode_head,
    encode_head,
)

BLOCKS = st.integers(0, 2**40).map(lambda number: number * ALIGNMENT_BYTES)
LENGTHS = st.integers(1, MAX_DATA_BYTES // ALIGNMENT_BYTES).map(lambda number: number * ALIGNMENT_BYTES)
HEADS = st.one_of(
    st.builds(Head, st.just(Kind.DATA), LENGTHS, BLOCKS),
    st.builds(Head, st.sampled_from([Kind.HOLE, Kind.DONE]), st.just(0), BLOCKS),
)


@given(HEADS)
def test_there_and_back(head: Head) -> None:
    """A head is 16 bytes and comes back as it was."""
    data = encode_head(head)
    assert len(data) == HEAD_BYTES
    assert decode_head(data) == head


@given(st.binary(min_size=HEAD_BYTES, max_size=HEAD_BYTES))
def test_any_bytes(data: bytes) -> None:
    """Any 16 bytes are a head that goes there and back, or break the protocol."""
    try:
        head = decode_head(data)
    except RemoteProtocolError:
        return
    assert encode_head(head) == data


@pytest.mark.parametrize(
    ("kind", "length", "offset"),
    [
        (b"DATA", 0, 0),
        (b"DATA", MAX_DATA_BYTES + ALIGNMENT_BYTES, 0),
        (b"DATA", 2**32 - 1, 0),
        (b"DATA", 4095, 0),
        (b"DATA", 4096, 1),
        (b"HOLE", 4096, 0),
        (b"DONE", 4096, 0),
        (b"HOLE", 0, 4095),
        (b"data", 4096, 0),
        (b"\0\0\0\0", 0, 0),
        (b'{"id', 0, 0),
    ],
)
def test_no_head(kind: bytes, length: int, offset: int) -> None:
    """Data of no or too much length, what is not of whole blocks, and unknown words are refused."""
    with pytest.raises(RemoteProtocolError):
        decode_head(struct.pack(">4sIQ", kind, length, offset))


def test_nothing_wrong_is_sent() -> None:
    """A frame that the other side would refuse is not sent."""
    with pytest.raises(LocalProtocolError):
        encode_head(Frame(Kind.DATA, 0, b"x" * 100).head)


def test_no_head_reaches_beyond_its_own_integers() -> None:
    """The largest offset there is, with data behind it, is simply beyond every limit."""
    last = 2**64 - ALIGNMENT_BYTES
    with pytest.raises(RemoteProtocolError):
        Track(2**60).follow(decode_head(struct.pack(">4sIQ", b"DATA", MAX_DATA_BYTES, last)))


@pytest.mark.parametrize(
    "heads",
    [
        [Head(Kind.DATA, 8192, 0), Head(Kind.DATA, 4096, 4096)],
        [Head(Kind.HOLE, 0, 8192), Head(Kind.DATA, 4096, 4096)],
        [Head(Kind.DATA, 4096, 2**20)],
        [Head(Kind.DATA, 8192, 2**20 - 4096)],
        [Head(Kind.HOLE, 0, 2**20 + 4096)],
        [Head(Kind.DONE, 0, 0), Head(Kind.HOLE, 0, 0)],
        [Head(Kind.DATA, 4096, 4096), Head(Kind.DONE, 0, 0)],
    ],
)
def test_out_of_order(heads: list[Head]) -> None:
    """What lies before the last frame's end, beyond the limit or behind the end is refused."""
    track = Track(2**20)
    for head in heads[:-1]:
        track.follow(head)
    with pytest.raises(RemoteProtocolError, match="does not lie between"):
        track.follow(heads[-1])


def test_in_order() -> None:
    """Frames that touch, that leave a gap, and that end at the limit pass."""
    track = Track(2**20, 4096)
    for head in (
        Head(Kind.DATA, 4096, 4096),
        Head(Kind.DATA, 4096, 8192),
        Head(Kind.HOLE, 0, 2**19),
        Head(Kind.DATA, 4096, 2**20 - 4096),
        Head(Kind.DONE, 0, 2**20),
    ):
        assert not track.is_done
        track.follow(head)
    assert track.is_done
    assert track.position_bytes == 2**20
