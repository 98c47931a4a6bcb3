"""Messages over a stream socket: a length, canonical encoding, descriptors beside it. Nothing here ever waits."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

from ciuic.objects.encoding import EncodingError, decode, encode

MOST_BYTES = 64 << 20
"""No message is longer; the state itself and what a snapshot says go through memory files."""
MOST_DESCRIPTORS = 8
LENGTH = struct.Struct(">I")
PIECE = 1 << 16

Message = dict[str, Any]


class _Outgoing:
    __slots__ = ("descriptors", "rest", "sent")

    def __init__(self, data: bytes, descriptors: tuple[int, ...], sent: Callable[[], None] | None) -> None:
        self.rest = memoryview(data)
        self.descriptors = descriptors
        self.sent = sent


class Channel:
    """One end. Not for two threads at once, but receiving and sending may go on side by side."""

    def __init__(self, endpoint: socket.socket) -> None:
        endpoint.setblocking(False)
        self._socket = endpoint
        self._outgoing: deque[_Outgoing] = deque()
        self._head = bytearray()
        self._body: bytearray | None = None
        self._length = 0
        self._descriptors: list[int] = []
        self.ended = False

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []
        self._socket.close()

    # Sending

    def post(self, message: Message, descriptors: tuple[int, ...] = (), sent: Callable[[], None] | None = None) -> None:
        """Put a message behind those that wait; ``flush`` sends. The descriptors stay the caller's, open until sent.

        ``sent`` is called when the kernel has all of it, and would deliver it if this process died.
        """
        body = encode(message)
        if len(body) > MOST_BYTES:
            raise EncodingError(f"a message of {len(body)} bytes")
        self._outgoing.append(_Outgoing(LENGTH.pack(len(body)) + body, descriptors, sent))

    def flush(self) -> bool:
        """Send what the kernel takes now. True when nothing is left; what the other side will not read is dropped."""
        while self._outgoing:
            first = self._outgoing[0]
            try:
                if first.descriptors:
                    count = socket.send_fds(self._socket, [first.rest[:PIECE]], list(first.descriptors))
                    first.descriptors = ()  # they travel with the first byte
                else:
                    count = self._socket.send(first.rest[:PIECE])
            except (BlockingIOError, InterruptedError):
                return False
            except OSError:  # the other side is gone; reading will say so
                self._outgoing.clear()
                return True
            first.rest = first.rest[count:]
            if not first.rest:
                self._outgoing.popleft()
                if first.sent is not None:
                    first.sent()
        return True

    @property
    def waiting(self) -> bool:
        """Whether anything is left to send."""
        return bool(self._outgoing)

    def finish(self) -> None:
        """No more messages: the other side reads what was sent, then sees the end."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    # Receiving

    def receive(self) -> list[tuple[Message, list[int]]]:
        """Every message that is complete by now, with its descriptors, which are the caller's to close.

        ``ended`` is true once the other side has closed, or died in the middle of a message, of which nothing remains.
        """
        messages = []
        while not self.ended:
            try:
                message = self._receive_one()
            except (BlockingIOError, InterruptedError):
                break
            except (OSError, EncodingError):
                self.ended = True
                break
            if message is not None:
                messages.append(message)
        return messages

    def _receive_one(self) -> tuple[Message, list[int]] | None:
        """Read on; None when there is no whole message yet, or at the end. BlockingIOError when there is nothing."""
        wanted = LENGTH.size - len(self._head) if self._body is None else self._length - len(self._body)
        data, descriptors, _, _ = socket.recv_fds(self._socket, min(wanted, PIECE), MOST_DESCRIPTORS)
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        self._descriptors += descriptors
        if not data:
            self.ended = True
            return None
        if self._body is None:
            self._head += data
            if len(self._head) < LENGTH.size:
                return None
            (self._length,) = LENGTH.unpack(self._head)
            if self._length > MOST_BYTES:
                raise EncodingError("no message is that long")
            self._head.clear()
            self._body = bytearray()
            return None
        self._body += data
        if len(self._body) < self._length:
            return None
        body, self._body = self._body, None
        taken, self._descriptors = self._descriptors, []
        message = decode(body)
        if not isinstance(message, dict):
            raise EncodingError("a message is a map")
        return message, taken
