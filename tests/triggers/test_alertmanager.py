"""An alert that fires: real HTTP, as Alertmanager sends it."""

import contextlib
import http.client
import json
import os
import signal
import socket
import threading

import pytest

import ciuic
from ciuic.triggers import AlertmanagerWebhook, EverySteps


def alert(name, status="firing", since="2026-01-01T00:00:00Z", **labels):
    labels = {"alertname": name, **labels}
    return {"status": status, "labels": labels, "startsAt": since, "fingerprint": json.dumps(labels)}


def post(port, body, kind="application/json", headers=()):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = body if isinstance(body, bytes) else json.dumps({"version": "4", "alerts": body}).encode()
    connection.request("POST", "/", body, {"Content-Type": kind, **dict(headers)})
    status = connection.getresponse().status
    connection.close()
    return status


@pytest.fixture
def hook(alone):
    return alone(AlertmanagerWebhook(0))


def test_a_firing_alert_takes_a_snapshot(training, path):
    """At the next boundary, with another trigger's in one; not when it is repeated, and anew when it fires anew."""
    trigger = AlertmanagerWebhook(0, labels={"severity": "critical"})
    run = training(trigger, EverySteps(4))
    run.step()
    hot = alert("GpuHot", severity="critical", gpu="3")
    sent = [[hot, alert("Noise", severity="info")], [hot], [{**hot, "status": "resolved"}], [hot], []]
    for alerts in sent:
        assert post(trigger.port, alerts) == 200
        run.step()
    run.sm.wait()
    assert [(each.step, each.message) for each in ciuic.Repo(path).log()] == [
        (4, "alert GpuHot"), (3, "every 4 steps"), (1, "alert GpuHot"),
    ]  # fmt: skip


def test_only_json_of_a_bounded_size_is_taken(hook):
    """What is no alert changes nothing, and the next one is heard."""
    port = hook.trigger.port
    assert post(port, b"hello", kind="text/plain") == 415
    for body in (b"", b"no", b"[]", b"7", b'{"alerts": 7}', b'{"alerts": [7]}', b'{"alerts": [{}]}', b"[" * 10**5):
        assert post(port, body) == 400, body
    assert post(port, [], headers=[("Content-Length", str(1 << 30))]) == 413
    assert post(port, [], headers=[("Content-Length", "-1")]) == 411
    assert hook.ask() is None
    assert post(port, [alert("A"), alert("B"), alert("A")]) == 200
    assert hook.ask() == "alert A; alert B" and hook.ask() is None


def test_it_is_bound_to_loopback_alone(hook):
    """The network cannot reach it."""
    assert hook.trigger._server.socket.getsockname()[0] == "127.0.0.1"
    with pytest.raises(OSError):
        socket.create_connection((socket.gethostbyname_ex("127.0.0.2")[2][0], hook.trigger.port), timeout=30)


def test_a_sender_that_hangs_stops_neither_training_nor_the_end(training):
    """It is dropped; the port is free when the run is over."""
    trigger = AlertmanagerWebhook(0)
    run = training(trigger)
    run.step()
    with socket.create_connection(("127.0.0.1", trigger.port), timeout=60) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
        run.step()
        run.sm.close()
    again = socket.socket()
    again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    again.bind(("127.0.0.1", trigger.port))
    again.close()


def test_a_sender_in_drops_keeps_nobody_out(alone, monkeypatch):
    """A byte now and then, each in time: the one server thread waited for as long as they came."""
    monkeypatch.setattr("ciuic.triggers.alertmanager.TIMEOUT_S", 0.5)
    trigger = AlertmanagerWebhook(0)
    hook = alone(trigger)
    stop = threading.Event()

    def drip(connection):
        with contextlib.suppress(OSError):
            while not stop.wait(0.01):
                connection.sendall(b"P")

    with socket.create_connection(("127.0.0.1", trigger.port), timeout=60) as connection:
        connection.sendall(b"P")
        thread = threading.Thread(target=drip, args=(connection,))
        thread.start()
        try:
            assert post(trigger.port, [alert("A")]) == 200 and hook.ask() == "alert A"
        finally:
            stop.set()
            thread.join()


def test_a_name_that_a_terminal_would_obey(hook):
    """It stands in a snapshot's message."""
    assert post(hook.trigger.port, [alert("A\x1b[31mB\nC")]) == 200
    assert hook.ask() == "alert A?[31mB"


def test_a_port_that_is_taken_is_a_failure_of_this_trigger_alone(training, path, hook, caplog):
    """Logged, counted, left out."""
    run = training(AlertmanagerWebhook(hook.trigger.port), EverySteps(1))
    run.step()
    run.sm.wait()
    assert run.sm._watch.engine.failures == {"AlertmanagerWebhook": 1} and "left out" in caplog.text
    assert len(list(ciuic.Repo(path).log())) == 1


def test_a_forked_child_does_not_keep_the_port(hook):
    """A data loader's worker may outlive the run."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, b".")
        signal.pause()
        os._exit(0)
    try:
        assert os.read(reading, 1) == b"."  # the kernel may leave a child waiting before it has closed its copy
        port = hook.trigger.port
        hook.trigger.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=30).close()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)
        os.close(writing)


def test_ports_that_are_none(alone):
    """Refused when the trigger is made."""
    for port in (-1, 70000):
        with pytest.raises(ValueError, match="port"):
            AlertmanagerWebhook(port)
