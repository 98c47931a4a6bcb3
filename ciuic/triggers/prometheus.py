"""Snapshots when a Prometheus query crosses a threshold."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from typing import Any
from urllib.parse import urlencode, urlsplit

from ciuic.daemon_thread import DaemonThread
from ciuic.triggers.engine import Moment, Run
from ciuic.triggers.one_line import one_line

TIMEOUT_S = 10.0
LARGEST_ANSWER = 1 << 20
LONGEST_TEXT = 200

logger = logging.getLogger("ciuic")


class PrometheusQuery:
    """At the next boundary after ``query`` (PromQL) has gone ``above`` or ``below`` a value.

    A thread asks the server at ``url`` ("http://prometheus:9090") every ``every_s`` seconds. The condition holds when
    one of the series that come back is beyond the value; ``for_s``: and has been for so long, as far as was asked.
    One snapshot each time that it begins to hold. An error (no server, no such metric, a time-out) is logged once and
    counted in ``errors``; it neither begins nor ends anything, and training does not notice.
    """

    def __init__(
        self,
        url: str,
        query: str,
        *,
        above: float | None = None,
        below: float | None = None,
        every_s: float = 15.0,
        for_s: float = 0.0,
    ) -> None:
        limit = above if below is None else below
        if (above is None) == (below is None) or limit is None or math.isnan(limit):
            raise ValueError("give a threshold, either above or below")
        if not query.strip():
            raise ValueError("query is PromQL, and at least a metric's name")
        if not 0 < every_s < math.inf or not 0 <= for_s < math.inf:
            raise ValueError("every_s is a number of seconds above 0, for_s one of at least 0")
        if urlsplit(url).scheme not in ("http", "https"):
            raise ValueError(f"{url!r} is no address of a Prometheus server: it begins with http:// or https://")
        self.query = query
        self.above = above
        self.below = below
        self.every_s = every_s
        self.for_s = for_s
        self.asked = 0
        self.errors = 0
        self._address = f"{url.rstrip('/')}/api/v1/query?{urlencode({'query': query})}"
        self._holds_since_s: float | None = None
        self._told = False  # since it holds
        self._reason: str | None = None  # for the next boundary
        self._stop = threading.Event()

    def start(self, _run: Run) -> None:
        self._stop = threading.Event()
        DaemonThread(self._watch, self._stop, name="ciuic-prometheus").start()

    def at_step(self, _moment: Moment) -> str | None:
        if self._reason is None:
            return None
        reason, self._reason = self._reason, None
        return reason

    def close(self) -> None:
        """Does not wait for an answer that is still to come."""
        self._stop.set()

    def _watch(self, stop: threading.Event) -> None:
        while True:
            self._ask(stop)
            if stop.wait(self.every_s):
                return

    def _ask(self, stop: threading.Event) -> None:
        try:
            values = self._values()
        except Exception as error:  # whatever a network has in store
            self.errors += 1
            if self.errors == 1:
                text = f"{type(error).__name__}: {one_line(str(error), LONGEST_TEXT)}"
                logger.warning("Prometheus does not answer %r: %s. It is asked again, silently.", self.query, text)
        else:
            if not stop.is_set():
                self._judge(values, time.monotonic())
        self.asked += 1

    def _values(self) -> list[float]:
        """The value of each series now. Raises whatever is in the way."""
        content: Any = json.loads(self._answer())
        if content.get("status") == "error":
            raise ValueError(f"{content.get('errorType')}: {content.get('error')}")
        kind, result = content["data"]["resultType"], content["data"]["result"]
        if kind == "scalar":
            return [float(result[1])]
        if kind == "vector":
            return [float(series["value"][1]) for series in result]
        raise ValueError(f"the query gives a {kind}, and a vector or a scalar is needed")

    def _answer(self) -> bytes:
        """Of an error, too, which Prometheus explains. TimeoutError for one that comes in drops."""
        from urllib.error import HTTPError
        from urllib.request import Request, urlopen

        end_s = time.monotonic() + TIMEOUT_S
        try:
            answer = urlopen(Request(self._address, headers={"Accept": "application/json"}), timeout=TIMEOUT_S)
        except HTTPError as error:
            if error.headers.get_content_type() != "application/json":
                raise
            answer = error
        data = b""
        with answer:
            while piece := answer.read1(LARGEST_ANSWER):
                data += piece
                if len(data) > LARGEST_ANSWER:
                    raise ValueError(f"the answer is larger than {LARGEST_ANSWER} bytes")
                if time.monotonic() > end_s:
                    raise TimeoutError(f"the answer takes more than {TIMEOUT_S:g} s")
        return data

    def _judge(self, values: list[float], now_s: float) -> None:
        numbers = [value for value in values if not math.isnan(value)]
        if self.above is not None:
            worst, limit, side = max(numbers, default=-math.inf), self.above, "above"
            holds = worst > limit
        else:
            worst, limit, side = min(numbers, default=math.inf), self.below or 0.0, "below"
            holds = worst < limit
        if not holds:
            self._holds_since_s, self._told = None, False
            return
        self._holds_since_s = now_s if self._holds_since_s is None else self._holds_since_s
        if not self._told and now_s - self._holds_since_s >= self.for_s:
            self._told = True
            self._reason = f"{self.query} is {worst:g}, {side} {limit:g}"
