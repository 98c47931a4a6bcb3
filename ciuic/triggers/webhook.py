"""A web server of one thread that takes JSON and hands it on."""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import TCPServer
from typing import Any


def serve(
    host: str, port: int, received: Callable[[bytes], HTTPStatus], *, largest_body: int, timeout_s: float
) -> HTTPServer:
    """Bound, and not serving yet. ``received(body)`` says what the sender is told.

    One request after the other: nobody can make threads, and who is slow is dropped after ``timeout_s`` seconds.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = timeout_s  # of what is sent back
        server_version = "ciuic"
        sys_version = ""

        def setup(self) -> None:
            super().setup()
            self.rfile = io.BufferedReader(_Until(self.connection, time.monotonic() + timeout_s))

        def do_POST(self) -> None:
            self.send_response(self._taken())
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _taken(self) -> HTTPStatus:
            self.close_connection = True
            # A web page of somebody else's can post text to this machine, and no JSON.
            if self.headers.get_content_type() != "application/json":
                return HTTPStatus.UNSUPPORTED_MEDIA_TYPE
            length = self.headers.get("Content-Length", "")
            if not (length.isascii() and length.isdecimal()):
                return HTTPStatus.LENGTH_REQUIRED
            if len(length) > 18 or int(length) > largest_body:
                return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            body = self.rfile.read(int(length))
            return received(body) if len(body) == int(length) else HTTPStatus.BAD_REQUEST

        def log_message(self, format: str, *arguments: Any) -> None:
            """Nobody's terminal is written to."""

    class Server(HTTPServer):
        def server_bind(self) -> None:
            """Without the look at the name service that HTTPServer takes, which may hang."""
            TCPServer.server_bind(self)
            self.server_name, self.server_port = host, self.socket.getsockname()[1]

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A connection that broke is no news."""

    return Server((host, port), Handler)


class _Until(io.RawIOBase):
    """What a connection sends until then; TimeoutError afterwards, however little it sends at a time."""

    def __init__(self, connection: socket.socket, until_s: float) -> None:
        self._connection = connection
        self._until_s = until_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left_s = self._until_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._connection.settimeout(left_s)
        return self._connection.recv_into(buffer)
