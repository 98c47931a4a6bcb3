"""Messages and descriptors over a socket that never waits."""

import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ciuic.objects.encoding import EncodingError
from ciuic.writer import channel
from ciuic.writer.channel import Channel
from ciuic.writer.memory_file import contents, memory_file


@pytest.fixture
def pair():
    ends = [Channel(end) for end in socket.socketpair()]
    yield ends
    for end in ends:
        end.close()


def exchange(sender, receiver, count):
    received = []
    while len(received) < count:
        sender.flush()
        received += receiver.receive()
    return received


@given(st.lists(st.dictionaries(st.text(max_size=5), st.binary(max_size=300) | st.integers()), max_size=8))
def test_messages_arrive_as_they_were_sent(messages):
    """In order, each once."""
    one, other = (Channel(end) for end in socket.socketpair())
    for message in messages:
        one.post(message)
    assert [message for message, _ in exchange(one, other, len(messages))] == messages
    one.close()
    other.close()


def test_descriptors_travel_with_their_message(pair):
    """Between messages without any, and with one that is larger than the socket's buffer."""
    one, other = pair
    files = [memory_file(text) for text in (b"first", b"second", b"third")]
    one.post({"n": 0})
    one.post({"n": 1, "large": bytes(1 << 20)}, (files[0], files[1]))
    one.post({"n": 2})
    one.post({"n": 3}, (files[2],))
    received = exchange(one, other, 4)
    assert [message["n"] for message, _ in received] == [0, 1, 2, 3]
    assert [[contents(each) for each in found] for _, found in received] == [[], [b"first", b"second"], [], [b"third"]]
    for each in files + [each for _, found in received for each in found]:
        assert not os.get_inheritable(each)
        os.close(each)


def test_sending_never_waits(pair):
    """What the other side does not read stays here, and nothing of it is lost."""
    one, other = pair
    told = []
    for number in range(100):
        one.post({"n": number, "x": bytes(50_000)}, sent=lambda number=number: told.append(number))
    assert not one.flush() and one.waiting and len(told) < 100
    assert [message["n"] for message, _ in exchange(one, other, 100)] == list(range(100))
    assert one.flush() and not one.waiting and told == list(range(100))


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 20])
def test_a_torn_message_is_an_end(cut):
    """Whoever sent it has died."""
    sender, receiver = socket.socketpair()
    other = Channel(receiver)
    one = Channel(socket.socket(fileno=os.dup(sender.fileno())))
    one.post({"n": 1})
    one.flush()
    sender.send((channel.LENGTH.pack(100) + bytes(100))[:cut])
    one.close()
    sender.close()
    assert [message for message, _ in other.receive()] == [{"n": 1}]
    assert other.ended and other.receive() == []
    other.close()


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\0\0\0\1\x05", b"\0\0\0\1\xff"])
def test_what_no_peer_of_ours_says_is_an_end(data):
    """Too long, no map, no encoding."""
    sender, receiver = socket.socketpair()
    other = Channel(receiver)
    sender.send(data)
    assert other.receive() == [] and other.ended
    other.close()
    sender.close()


def test_a_message_has_a_limit(pair, monkeypatch):
    """The sender finds out."""
    monkeypatch.setattr(channel, "MOST_BYTES", 1000)
    with pytest.raises(EncodingError, match="a message of"):
        pair[0].post({"x": bytes(1001)})


def test_sending_to_nobody_is_no_error(pair):
    """Reading tells that it has ended."""
    one, other = pair
    other.finish()
    other.close()
    one.post({"n": 1})
    assert one.flush() and one.receive() == [] and one.ended
