"""A query over a threshold: real HTTP, to a small server that answers as Prometheus does."""

import contextlib
import http.server
import json
import math
import socket
import threading
import time
from urllib.parse import parse_qs, urlsplit

import pytest

import ciuic
from ciuic.triggers import EverySteps, PrometheusQuery


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    """Loopback is asked directly, whatever the machine's proxies are."""
    monkeypatch.setenv("no_proxy", "*")


class Prometheus:
    """``values`` are what the query gives; ``broken`` what comes in place of an answer. ``asked``: the queries."""

    def __init__(self):
        self.values, self.broken, self.asked, self.hang = [], None, [], threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                address = urlsplit(self.path)
                outer.asked.append((address.path, parse_qs(address.query)["query"][0]))
                if outer.broken == "hang":
                    outer.hang.wait(60)
                body = outer.answer() if outer.broken in (None, "hang") else outer.broken
                self.send_response(200 if outer.broken is None else 500)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self):
        if isinstance(self.values, str):
            data = {"resultType": "scalar", "result": [1.5, self.values]}
        else:
            series = [{"metric": {"gpu": str(n)}, "value": [1.5, v]} for n, v in enumerate(self.values)]
            data = {"resultType": "vector", "result": series}
        return json.dumps({"status": "success", "data": data}).encode()


@pytest.fixture
def prometheus():
    server = Prometheus()
    yield server
    server.hang.set()
    server.server.shutdown()
    server.server.server_close()


def asked_again(trigger, until, times=2):
    """Return when the server has been asked so often anew."""
    before = trigger.asked
    until(lambda: trigger.asked >= before + times)


def test_a_snapshot_at_the_crossing(training, path, prometheus, until):
    """One for each time that it begins to hold, not one a step; at the same boundary as another trigger, one in all."""
    trigger = PrometheusQuery(prometheus.url, 'gpu_memory{job="x y"} > 0', above=0.9, every_s=0.02)
    run = training(trigger, EverySteps(1000))
    for values in (["0.5", "0.8"], ["0.5", "0.95"], ["0.99", "0.2"], [], ["0.91"]):
        prometheus.values = values
        asked_again(trigger, until)
        run.step()
        run.step()
    run.sm.wait()
    taken = [(each.step, each.message) for each in ciuic.Repo(path).log()]
    query = 'gpu_memory{job="x y"} > 0'
    assert taken == [(8, f"{query} is 0.91, above 0.9"), (2, f"{query} is 0.95, above 0.9")]
    assert set(prometheus.asked) == {("/api/v1/query", query)}


def test_below_scalars_and_nan(alone, prometheus, until):
    """NaN is no value; ``scalar(…)`` gives one without a series."""
    trigger = PrometheusQuery(prometheus.url + "/", "scalar(x)", below=10, every_s=0.02)
    watching = alone(trigger)
    said = []
    for values in (["NaN"], "12", "-Inf", "12", ["NaN", "9.5"]):
        prometheus.values = values
        asked_again(trigger, until)
        said.append(watching.ask())
    assert said == [None, None, "scalar(x) is -inf, below 10", None, "scalar(x) is 9.5, below 10"]
    assert trigger.errors == 0


def test_it_has_to_hold_for_some_time():
    """By made-up times; an interruption begins anew."""
    trigger = PrometheusQuery("http://127.0.0.1", "x", above=1, for_s=60)

    def reasons(times_and_values):
        found = []
        for now_s, value in times_and_values:
            trigger._judge([value], now_s)
            if trigger.at_step(None) is not None:
                found.append(now_s)
        return found

    assert reasons([(0, 2.0), (50, 2.0), (60, 2.0), (70, 2.0)]) == [60]
    assert reasons([(80, 0.0), (90, 2.0), (140, 0.5), (145, 2.0), (190, 2.0), (205, 2.0), (300, 2.0)]) == [205]
    assert reasons([(310, math.nan), (320, 2.0), (380, 2.0)]) == [380]


@pytest.mark.parametrize(
    "broken", [b"", b"no json", b'{"data": 7}', b'{"data": {"resultType": "matrix", "result": []}}', b"[" * 10**6]
)
def test_an_error_is_logged_once_and_harms_nothing(alone, prometheus, until, caplog, broken):
    """Whatever comes back. When the server has recovered, so has the trigger."""
    prometheus.broken = broken
    trigger = PrometheusQuery(prometheus.url, "x", above=0, every_s=0.02)
    watching = alone(trigger)
    asked_again(trigger, until, 3)
    assert watching.ask() is None and trigger.errors >= 3 and caplog.text.count("does not answer") == 1
    prometheus.broken, prometheus.values = None, ["1"]
    assert until(watching.ask) == "x is 1, above 0"


def test_what_prometheus_says_of_a_wrong_query_is_said(alone, prometheus, until, caplog):
    """And no control codes of whoever answers get onto a terminal."""
    prometheus.broken = json.dumps({"status": "error", "errorType": "bad_data", "error": "no \x1b[31m such"}).encode()
    trigger = PrometheusQuery(prometheus.url, "x(", above=0, every_s=0.02)
    alone(trigger)
    asked_again(trigger, until, 1)
    assert "'x(': ValueError: bad_data: no ?[31m such. It is asked again" in caplog.text and trigger.errors


def test_an_answer_in_drops_is_given_up(alone, until, monkeypatch):
    """Each of them came in time, and so the query would have waited for as long as they come."""
    monkeypatch.setattr("ciuic.triggers.prometheus.TIMEOUT_S", 0.2)
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip():
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
                while not stop.wait(0.01):
                    connection.sendall(b" ")

        thread = threading.Thread(target=drip)
        thread.start()
        trigger = PrometheusQuery(f"http://127.0.0.1:{server.getsockname()[1]}", "x", above=0)
        alone(trigger)
        until(lambda: trigger.errors)
        stop.set()
        thread.join()


def test_no_server_at_all(alone, prometheus, until, caplog):
    """A port where nobody listens any more."""
    prometheus.server.shutdown()
    prometheus.server.server_close()
    trigger = PrometheusQuery(prometheus.url, "x", above=0, every_s=0.02)
    alone(trigger)
    asked_again(trigger, until)
    assert trigger.errors >= 2 and caplog.text.count("does not answer") == 1


def test_a_server_that_hangs_does_not_stop_training(training, prometheus, until):
    """Neither a step nor the end of the run waits for it."""
    prometheus.broken = "hang"
    trigger = PrometheusQuery(prometheus.url, "x", above=0, every_s=3600)
    run = training(trigger)
    for _ in range(3):
        run.step()
    until(lambda: prometheus.asked)
    began = time.monotonic()
    run.sm.close()
    assert trigger.asked == 0 and time.monotonic() - began < 3600


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("file:///etc/passwd", {"above": 1}), ("prometheus:9090", {"above": 1}), ("http://p", {}),
        ("http://p", {"above": 1, "below": 0}), ("http://p", {"above": 1, "every_s": 0}),
        ("http://p", {"above": 1, "for_s": -1}), ("http://p", {"above": math.nan}),
        ("http://p", {"above": 1, "every_s": math.inf}), ("http://p", {"above": 1, "for_s": math.nan}),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_at_once(url, options):
    """Before any thread runs."""
    with pytest.raises(ValueError, match=r"http://|either|at least"):
        PrometheusQuery(url, "x", **options)
