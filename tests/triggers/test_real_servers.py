"""Prometheus and Alertmanager as the system's packages have them, end to end; skipped where they are not installed."""

import shutil
import socket
import subprocess
import urllib.request

import pytest

from ciuic.triggers import AlertmanagerWebhook, PrometheusQuery

PROMETHEUS = shutil.which("prometheus")
ALERTMANAGER = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")

needs_prometheus = pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed")
needs_alertmanager = pytest.mark.skipif(ALERTMANAGER is None, reason="prometheus-alertmanager is not installed")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    """Loopback is asked directly."""
    monkeypatch.setenv("no_proxy", "*")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def is_ready(url):
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=10) as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.fixture
def server(tmp_path, until):
    """``server(name, port, *command)``: a process on that port, ready; stopped at the end."""
    running = []

    def start(name, port, *command):
        with (tmp_path / f"{name}.log").open("wb") as log:
            running.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path))
        url = f"http://127.0.0.1:{port}"
        until(lambda: is_ready(url))
        return url

    yield start
    for process in running:
        process.kill()
        process.wait()


def prometheus(server, tmp_path, alertmanager=None):
    """A Prometheus that looks at itself, with an alert that fires at once."""
    port = free_port()
    config = f"""
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
scrape_configs: [{{job_name: itself, static_configs: [{{targets: ["127.0.0.1:{port}"]}}]}}]
"""
    if alertmanager is not None:
        (tmp_path / "rules.yml").write_text(
            "groups: [{name: test, rules: [{alert: ItRuns, expr: 'up == 1', labels: {severity: critical}}]}]"
        )
        config += f"""
rule_files: [rules.yml]
alerting: {{alertmanagers: [{{static_configs: [{{targets: ["{alertmanager}"]}}]}}]}}
"""
    (tmp_path / "prometheus.yml").write_text(config)
    return server(
        "prometheus", port, PROMETHEUS, "--config.file=prometheus.yml", "--storage.tsdb.path=data",
        f"--web.listen-address=127.0.0.1:{port}",
    )  # fmt: skip


@needs_prometheus
def test_a_query_of_a_real_prometheus(server, tmp_path, alone, until):
    """A metric that it has of itself goes over a threshold; a query with a mistake in it is an error, and no reason."""
    url = prometheus(server, tmp_path)
    right = alone(PrometheusQuery(url, 'up{job="itself"}', above=0.5, every_s=0.1))
    wrong = alone(PrometheusQuery(url, "up{", above=0.5, every_s=0.1))
    assert until(right.ask) == 'up{job="itself"} is 1, above 0.5'
    until(lambda: wrong.trigger.errors)
    assert wrong.ask() is None


@needs_prometheus
@needs_alertmanager
def test_an_alert_from_prometheus_through_alertmanager(server, tmp_path, alone, until):
    """The rule fires in Prometheus, Alertmanager posts to the webhook, and the next boundary has its reason."""
    hook = alone(AlertmanagerWebhook(0, labels={"severity": "critical"}))
    (tmp_path / "alertmanager.yml").write_text(
        "route: {receiver: ciuic, group_wait: 0s}\n"
        f"receivers: [{{name: ciuic, webhook_configs: [{{url: 'http://127.0.0.1:{hook.trigger.port}/'}}]}}]\n"
    )
    port = free_port()
    server(
        "alertmanager", port, ALERTMANAGER, "--config.file=alertmanager.yml", "--storage.path=alerts",
        f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address=",
    )  # fmt: skip
    prometheus(server, tmp_path, alertmanager=f"127.0.0.1:{port}")
    assert until(hook.ask) == "alert ItRuns"
