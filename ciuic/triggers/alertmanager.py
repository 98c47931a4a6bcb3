"""Snapshots when an alert fires: a webhook for Alertmanager, on this machine alone."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from ciuic.daemon_thread import DaemonThread
from ciuic.triggers.children import forget_in_children, keep_in_children
from ciuic.triggers.engine import Moment, Run
from ciuic.triggers.one_line import one_line

if TYPE_CHECKING:
    from http.server import HTTPServer

HOST = "127.0.0.1"
LARGEST_BODY = 1 << 20
TIMEOUT_S = 5.0
PATIENCE_S = 2.0
MOST_REMEMBERED = 1024
LONGEST_NAME = 200

logger = logging.getLogger("ciuic")


class AlertmanagerWebhook:
    """At the next boundary after an alert that has ``labels`` (all alerts without any) has begun to fire.

    Serves http://127.0.0.1:``port``/, for a ``webhook_config`` of Alertmanager's; port 0 takes a free one, which
    ``port`` tells after the start. One snapshot an alert, however often it is repeated while it fires. Only JSON of up
    to a megabyte is taken, and only on loopback: who may reach it may cause a snapshot, and nothing else.
    """

    def __init__(self, port: int, *, labels: Mapping[str, str] | None = None) -> None:
        if not 0 <= port < 1 << 16:
            raise ValueError("port is at least 0, and below 65536")
        self.port = port
        self.labels = dict(labels or {})
        self._server: HTTPServer | None = None
        self._firing: OrderedDict[tuple[str, str], None] = OrderedDict()  # (fingerprint, since when), the newest last
        self._reasons: list[str] = []
        self._guard = threading.Lock()

    def start(self, _run: Run) -> None:
        """OSError when somebody else has the port."""
        from ciuic.triggers.webhook import serve

        self._server = server = serve(HOST, self.port, self._received, largest_body=LARGEST_BODY, timeout_s=TIMEOUT_S)
        self.port = server.server_port
        forget_in_children(self)
        DaemonThread(_serve, server, name="ciuic-webhook").start()

    def at_step(self, _moment: Moment) -> str | None:
        if not self._reasons:
            return None
        with self._guard:
            reasons, self._reasons = self._reasons, []
        return "; ".join(dict.fromkeys(reasons))

    def close(self) -> None:
        """The port is free on return."""
        keep_in_children(self)
        server, self._server = self._server, None
        if server is not None:
            ending = DaemonThread(server.shutdown, name="ciuic-webhook-end")
            ending.start()
            ending.join(PATIENCE_S)  # somebody may be sending something without an end
            server.server_close()

    def forget(self) -> None:
        """In a forked child: the port is the parent's."""
        server, self._server = self._server, None
        if server is not None:
            server.socket.close()

    def _received(self, body: bytes) -> HTTPStatus:
        """In the server's thread."""
        try:
            alerts = json.loads(body)["alerts"]
            told = [self._told(alert) for alert in alerts]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return HTTPStatus.BAD_REQUEST
        with self._guard:
            self._reasons += [reason for reason in told if reason is not None]
        return HTTPStatus.OK

    def _told(self, alert: Mapping[str, Any]) -> str | None:
        """The reason that a new firing alert is."""
        labels = alert["labels"]
        key = str(alert.get("fingerprint") or sorted(labels.items())), str(alert.get("startsAt"))
        if alert["status"] != "firing":
            self._firing.pop(key, None)
            return None
        if any(labels.get(name) != value for name, value in self.labels.items()) or key in self._firing:
            return None
        self._firing[key] = None
        if len(self._firing) > MOST_REMEMBERED:
            self._firing.popitem(last=False)
        return f"alert {one_line(str(labels.get('alertname', '')), LONGEST_NAME) or 'without a name'}"


def _serve(server: HTTPServer) -> None:
    with contextlib.suppress(OSError, ValueError):  # its socket was closed
        server.serve_forever(poll_interval=0.1)
