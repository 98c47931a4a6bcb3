"""Figures of runs, read over HTTP as Prometheus reads them."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families

import ciuic
from ciuic import monitoring
from ciuic.errors import MissingPackage, MonitoringError
from ciuic.monitoring.metrics import METRICS
from ciuic.snapshot import SnapshotManager

Samples = dict[tuple[str, str, str], float]


def fetched(url: str | None, accept: str = "text/plain") -> str:
    assert url is not None
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": accept}), timeout=60) as answer:
        return answer.read().decode()


def read(text: str) -> Samples:
    """(name, run, phase) → value of what is ours."""
    return {
        (sample.name, sample.labels.get("run", ""), sample.labels.get("phase", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("ciuic_")
    }


def scraped(exporter: monitoring.Exporter) -> dict[str, float]:
    """The samples of one run without phases, by name."""
    found = read(fetched(exporter.url))
    return {name: value for (name, run, phase), value in found.items() if run == exporter.name and not phase}


@pytest.fixture
def manager(tmp_path: Path):
    with SnapshotManager(tmp_path / "run") as manager:
        yield manager


def save(manager: SnapshotManager, step: int, wait: bool = False) -> None:
    pending = manager.save(step, extra={"at": step, "data": bytes(3000)}, force=True, wait=wait)
    assert pending is not None
    pending.result()


def test_what_is_served(manager: SnapshotManager) -> None:
    """Counts, bytes, the saving, durations by phase, where the run is, and how old the newest durable snapshot is;
    snapshots taken beside training and waited for alike."""
    with monitoring.serve(manager, 0) as exporter:
        save(manager, 4)
        save(manager, 5, wait=True)
        manager.save(6)
        found = scraped(exporter)
        assert found["ciuic_snapshots_total"] == 2
        assert found["ciuic_step"] == 6 and found["ciuic_last_snapshot_step"] == 5
        assert found["ciuic_raw_bytes_total"] == sum(sum(each.raw_bytes.values()) for each in manager.snapshots())
        assert found["ciuic_added_bytes_total"] == sum(each.added_bytes for each in manager.snapshots())
        saving = 1 - found["ciuic_added_bytes_total"] / found["ciuic_raw_bytes_total"]
        assert found["ciuic_saving_ratio"] == pytest.approx(saving)
        newest = manager.snapshots()[0].timestamp.timestamp()
        assert found["ciuic_last_snapshot_timestamp_seconds"] == pytest.approx(newest)
        assert 0 <= found["ciuic_last_snapshot_age_seconds"] <= time.time() - newest
        assert found["ciuic_start_timestamp_seconds"] <= newest
        failures = [name for name in found if name.split("_")[-2] in ("failed", "skipped", "torn", "deaths", "errors")]
        assert len(failures) == 5 and not any(found[name] for name in failures)
        phases = {key[2]: value for key, value in read(fetched(exporter.url)).items() if "seconds_count" in key[0]}
        assert phases["write"] == 2 and phases["call"] == 1, "a waiting commit has no call of its own"


def test_every_scrape_is_of_that_moment(manager: SnapshotManager) -> None:
    """Many snapshots between two scrapes are all counted, and each once."""
    with monitoring.serve(manager, 0) as exporter:
        counts = []
        for number in (0, 1, 0, 40):
            for step in range(number):
                manager.repo.commit(extra={"at": step}, step=step, rng=False)
            counts.append(scraped(exporter)["ciuic_snapshots_total"])
        assert counts == [0, 1, 1, 41]


def test_an_earlier_run_is_not_counted(tmp_path: Path) -> None:
    """A resumed run begins at 0; the age is that of the newest durable snapshot, whoever took it. So does one that
    goes back to an older snapshot."""
    with SnapshotManager(tmp_path / "run") as before:
        for step in range(3):
            save(before, step, wait=True)
    with SnapshotManager(tmp_path / "run") as manager, monitoring.serve(manager, 0) as exporter:
        found = scraped(exporter)
        assert (found["ciuic_snapshots_total"], found["ciuic_last_snapshot_step"]) == (0, 2)
        assert "ciuic_step" not in found and "ciuic_saving_ratio" not in found
        manager.restore("step:1")
        save(manager, 2, wait=True)
        found = scraped(exporter)
        assert (found["ciuic_snapshots_total"], found["ciuic_last_snapshot_step"]) == (1, 2)


def test_a_run_without_snapshots(manager: SnapshotManager) -> None:
    """What is not known has no sample, and no made-up value."""
    with monitoring.serve(manager, 0) as exporter:
        found = scraped(exporter)
    assert found["ciuic_snapshots_total"] == 0
    assert not {"ciuic_last_snapshot_age_seconds", "ciuic_last_snapshot_step", "ciuic_step"} & found.keys()


def test_failures_are_seen(manager: SnapshotManager) -> None:
    """A skipped snapshot and one that failed, also where the call waited for it."""
    with monitoring.serve(manager, 0) as exporter:
        manager.save(0, extra={"no": object()}, force=True, wait=True)
        assert manager.failures == 1
        assert scraped(exporter)["ciuic_snapshots_failed_total"] == 1


def test_two_runs_share_a_port(tmp_path: Path) -> None:
    """Told apart by a label; each family is there once, so that strict parsers read it too; one that ends takes
    nothing from the other, and the last one ends the server."""
    with SnapshotManager(tmp_path / "a") as one, SnapshotManager(tmp_path / "b") as other:
        first = monitoring.serve(one, 0)
        second = monitoring.serve(other, first.port or 0, name="teacher")
        save(one, 7, wait=True)
        found = read(fetched(first.url))
        assert found["ciuic_snapshots_total", one.repo.path, ""] == 1
        assert found["ciuic_snapshots_total", "teacher", ""] == 0
        strict = fetched(first.url, "application/openmetrics-text; version=1.0.0")
        assert "ciuic_snapshots" in {family.name for family in open_metrics(strict)}
        first.close()
        first.close()
        assert {run for _, run, _ in read(fetched(second.url))} == {"teacher"}
        second.close()
        with pytest.raises(urllib.error.URLError):
            fetched(second.url)


def test_a_port_of_the_manager(tmp_path: Path) -> None:
    """``metrics_port`` is all that a script needs; closing the manager frees the port."""
    with SnapshotManager(tmp_path / "run") as probe, monitoring.serve(probe, 0) as free:
        port = free.port
    url = f"http://127.0.0.1:{port}/metrics"
    for _ in range(2):
        with SnapshotManager(tmp_path / "run", metrics_port=port) as manager:
            save(manager, 3, wait=True)
            assert read(fetched(url))["ciuic_last_snapshot_step", manager.repo.path, ""] == 3
        with pytest.raises(urllib.error.URLError):
            fetched(url)


def test_a_port_that_is_taken(manager: SnapshotManager, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Asked for by itself it is an error that names the port; a training starts all the same, and says so."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(MonitoringError, match=rf"Port {port} of 127\.0\.0\.1 cannot be opened: .* Choose another"):
            monitoring.serve(manager, port)
        with SnapshotManager(tmp_path / "other", metrics_port=port) as other:
            save(other, 0, wait=True)
    assert "This run is not exported to Prometheus: Port" in caplog.text


def test_a_registry_of_ones_own(manager: SnapshotManager) -> None:
    """A program that serves metrics already takes the run into its registry; or has its registry served with it."""
    registry = CollectorRegistry()
    Gauge("gpu_degrees", "Mine.", registry=registry).set(70)
    exporter = monitoring.register(manager, registry)
    assert exporter.port is None and exporter.url is None
    assert read(generate_latest(registry).decode())["ciuic_snapshots_total", manager.repo.path, ""] == 0
    with pytest.raises(MonitoringError, match=r"exported already\. Give this one another name\."):
        monitoring.serve(manager, 0, registry=registry)
    with monitoring.serve(manager, 0, registry=registry, name="again") as served:
        assert "gpu_degrees 70.0" in fetched(served.url)
    exporter.close()
    assert read(generate_latest(registry).decode()) == {}


def test_a_repository_without_a_manager(tmp_path: Path) -> None:
    """Scripts that use ``Repo`` themselves: the same, without a step."""
    repo = ciuic.Repo.init(tmp_path / "run")
    with monitoring.serve(repo, 0) as exporter:
        repo.commit(extra={"at": 1}, step=1, rng=False)
        found = scraped(exporter)
    assert found["ciuic_snapshots_total"] == 1 and "ciuic_step" not in found


def test_a_run_that_is_garbage_is_not_exported(tmp_path: Path) -> None:
    """Exporting keeps no manager alive, and its name is free again."""
    registry = CollectorRegistry()
    repo = ciuic.Repo.init(tmp_path / "run")
    monitoring.register(repo, registry, name="x")
    del repo
    gc.collect()
    assert read(generate_latest(registry).decode()) == {}
    again = ciuic.Repo.open(tmp_path / "run")
    monitoring.register(again, registry, name="x")
    assert read(generate_latest(registry).decode())["ciuic_snapshots_total", "x", ""] == 0


def test_a_repository_that_cannot_be_read(tmp_path: Path) -> None:
    """The scrape works, and counts it; when the repository is back, so are its figures."""
    repo = ciuic.Repo.init(tmp_path / "run")
    with monitoring.serve(repo, 0) as exporter:
        repo.commit(extra={"at": 1}, step=1, rng=False)
        (tmp_path / "run" / "packs").rename(tmp_path / "away")
        found = scraped(exporter)
        assert (found["ciuic_monitoring_errors_total"], found["ciuic_snapshots_total"]) == (1, 0)
        (tmp_path / "away").rename(tmp_path / "run" / "packs")
        assert scraped(exporter)["ciuic_snapshots_total"] == 1


def test_scrapes_at_once(tmp_path: Path) -> None:
    """Several Prometheus servers, while snapshots are taken: nothing is counted twice."""
    repo = ciuic.Repo.init(tmp_path / "run")
    with monitoring.serve(repo, 0) as exporter:
        threads = [threading.Thread(target=lambda: [scraped(exporter) for _ in range(5)]) for _ in range(3)]
        for thread in threads:
            thread.start()
        for step in range(10):
            repo.commit(extra={"at": step}, step=step, rng=False)
        for thread in threads:
            thread.join()
        assert scraped(exporter)["ciuic_snapshots_total"] == 10


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_worker_does_not_hold_the_port(tmp_path: Path) -> None:
    """A DataLoader's worker that outlives its trainer for a moment: the next run gets the port."""
    repo = ciuic.Repo.init(tmp_path / "run")
    exporter = monitoring.serve(repo, 0)
    reading, writing = os.pipe()
    worker = os.fork()
    if not worker:
        exporter.close()
        os.write(writing, b".")
        signal.pause()
        os._exit(0)
    try:
        assert os.read(reading, 1) == b"."  # the kernel may leave a worker waiting before it has closed its copy
        assert scraped(exporter)["ciuic_snapshots_total"] == 0, "the worker has not taken it out here"
        exporter.close()
        with monitoring.serve(repo, exporter.port or 0) as again:
            assert again.port == exporter.port
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)
        os.close(reading)
        os.close(writing)


def test_one_metric_alone_can_be_asked_for(manager: SnapshotManager) -> None:
    """As prometheus_client offers it: ?name[]=…"""
    with monitoring.serve(manager, 0) as exporter:
        manager.save(8)
        assert read(fetched(f"{exporter.url}?name[]=ciuic_step")) == {("ciuic_step", exporter.name, ""): 8}


WITHOUT = """
import sys
sys.modules["prometheus_client"] = None
import ciuic
from ciuic import monitoring
from ciuic.snapshot import SnapshotManager
for attempt in (lambda: monitoring.serve(ciuic.Repo.init(sys.argv[1] + "/a")),
                lambda: monitoring.register(ciuic.Repo.open(sys.argv[1] + "/a")),
                lambda: SnapshotManager(sys.argv[1] + "/b", metrics_port=0)):
    try:
        attempt()
    except ciuic.MissingPackage as error:
        print(error)
SnapshotManager(sys.argv[1] + "/c").close()
"""


def test_without_the_package(tmp_path: Path) -> None:
    """An error that says what to install; who does not ask for metrics needs nothing."""
    done = subprocess.run([sys.executable, "-c", WITHOUT, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Run `pip install 'ciuic[prometheus]'`.\n") == 3
    assert issubclass(MissingPackage, MonitoringError)


ENDS = """
import sys
from ciuic import monitoring
from ciuic.snapshot import SnapshotManager
manager = SnapshotManager(sys.argv[1] + "/run", metrics_port=0)
monitoring.serve(manager, 0, name="never closed")
print("torch" in sys.modules, "prometheus_client" in sys.modules)
"""


def test_a_program_ends_without_closing(tmp_path: Path) -> None:
    """The server keeps no process alive, and monitoring itself needs no torch."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ENDS, str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout.split()[1], done.stderr) == (0, "True", "")


def test_the_names_are_those_that_are_listed(manager: SnapshotManager) -> None:
    """Every metric of the table is exported under the names that it says, and none besides."""
    with monitoring.serve(manager, 0) as exporter:
        save(manager, 1)
        manager.save(2)
        names = {name for name, _, _ in read(fetched(exporter.url))}
    assert names == {name for metric in METRICS for name in metric.samples}
