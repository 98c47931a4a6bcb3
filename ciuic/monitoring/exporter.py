"""Runs in a ``prometheus_client`` registry, and over HTTP."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ciuic.errors import MissingPackage, MonitoringError
from ciuic.monitoring.figures import Figures, Source
from ciuic.monitoring.metrics import METRICS, PHASE_LABEL, RUN_LABEL, samples

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric as Family

PORT = 9464
LOOPBACK = "127.0.0.1"

_guard = threading.RLock()
_collectors: weakref.WeakKeyDictionary[Any, _Collector] = weakref.WeakKeyDictionary()
_servers: dict[tuple[str, int], _Server] = {}


class Exporter:
    """One run's part in what is exported. ``name``: the value of its label ``run``.

    ``close()`` or the end of a ``with`` block takes it out, and the last one ends the server. A run that is garbage is
    not exported any more.
    """

    def __init__(self, name: str, collector: _Collector, server: _Server | None) -> None:
        self.name = name
        self._collector: _Collector | None = collector
        self._server = server

    @property
    def port(self) -> int | None:
        """Where it is served; None where only a registry has it."""
        return None if self._server is None else self._server.port

    @property
    def url(self) -> str | None:
        """What to give to Prometheus; None where only a registry has it."""
        return None if self._server is None else f"http://{self._server.address}:{self._server.port}/metrics"

    def close(self) -> None:
        """Take the run out. On return nothing of it is exported; a second call does nothing."""
        with _guard:
            collector, self._collector = self._collector, None
            if collector is None:
                return
            collector.remove(self.name)
            if self._server is not None:
                self._server.left()

    def __enter__(self) -> Exporter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def register(run: Any, registry: CollectorRegistry | None = None, *, name: str | None = None) -> Exporter:
    """Put a run (a ``SnapshotManager`` or a ``Repo``) into a registry, by default prometheus_client's own.

    For programs that serve metrics themselves. ``name``, by default the repository's path, tells several runs apart.
    MissingPackage; MonitoringError when the registry has another run of this name.
    """
    client = _client()
    with _guard:
        collector = _collector(client.REGISTRY if registry is None else registry)
        return Exporter(collector.add(run, name), collector, None)


def serve(
    run: Any,
    port: int = PORT,
    *,
    address: str = LOOPBACK,
    registry: CollectorRegistry | None = None,
    name: str | None = None,
) -> Exporter:
    """Serve the figures of a run (a ``SnapshotManager`` or a ``Repo``) to Prometheus, in threads of this process.

    Several runs of a process share a port, and ``name``, by default the repository's path, tells them apart. Only this
    machine is answered unless ``address`` is another one, such as "0.0.0.0". ``port`` 0 takes any. ``registry``: what
    else to serve, by default nothing. MissingPackage; MonitoringError for a port that is taken, or a name.
    """
    client = _client()
    with _guard:
        server = _servers.get((address, port))
        if server is not None and registry is not None and server.registry is not registry:
            raise MonitoringError(f"Port {port} serves another registry in this process. Choose another port.")
        if server is None:
            server = _Server(client, address, port, client.CollectorRegistry() if registry is None else registry)
        server.users += 1
        try:
            collector = _collector(server.registry)
            return Exporter(collector.add(run, name), collector, server)
        except BaseException:
            server.left()
            raise


def _client() -> Any:
    try:
        import prometheus_client
    except ImportError:
        raise MissingPackage(
            "prometheus_client is needed for this, and is not installed. Run `pip install 'ciuic[prometheus]'`."
        ) from None
    return prometheus_client


def _collector(registry: Any) -> _Collector:
    collector = _collectors.get(registry)
    if collector is None:
        collector = _collectors[registry] = _Collector()
        registry.register(collector)
    return collector


class _Server:
    """A thread that answers on one port. Ends with its last user."""

    def __init__(self, client: Any, address: str, port: int, registry: Any) -> None:
        try:
            self._server, self._thread = client.start_http_server(port, address, registry)
        except OSError as error:
            raise MonitoringError(
                f"Port {port} of {address} cannot be opened: {error.strerror or error}. Choose another one."
            ) from error
        self.address = address
        self.port = int(self._server.server_port)
        self.registry = registry
        self.users = 0
        _servers[address, self.port] = self

    def forget(self) -> None:
        """In a forked process, which has the socket and not the thread."""
        self._server.socket.close()
        self.users = -1  # of which none is the last

    def left(self) -> None:
        self.users -= 1
        if not self.users:
            del _servers[self.address, self.port]
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()


class _Collector:
    """All runs of one registry: a family has a line for each, and is there once."""

    def __init__(self) -> None:
        self._sources: dict[str, Source] = {}
        self._asking = threading.Lock()  # two scrapes at once would count a snapshot twice

    def add(self, run: Any, name: str | None) -> str:
        name = str(getattr(run, "repo", run).path) if name is None else name
        known = self._sources.get(name)
        if known is not None and known.figures() is not None:
            raise MonitoringError(f"A run named {name!r} is exported already. Give this one another name.")
        self._sources[name] = Source(run)
        return name

    def remove(self, name: str) -> None:
        with contextlib.suppress(KeyError):
            del self._sources[name]

    def describe(self) -> Iterator[Family]:
        """The names, for the registry that it is put into; nothing is read for them."""
        return _families([])

    def collect(self) -> Iterator[Family]:
        """What prometheus_client calls for every scrape."""
        with self._asking:
            found = [(name, source.figures()) for name, source in list(self._sources.items())]
        return _families([(name, figures) for name, figures in found if figures is not None])


def _families(runs: Sequence[tuple[str, Figures]]) -> Iterator[Family]:
    from prometheus_client import core

    for metric in METRICS:
        if metric.kind == "summary":
            summary = core.SummaryMetricFamily(metric.name, metric.text, labels=[RUN_LABEL, PHASE_LABEL])
            for name, figures in runs:
                for phase, seconds, count in samples(metric, figures):
                    summary.add_metric([name, phase], count, seconds)
            yield summary
            continue
        kind = core.CounterMetricFamily if metric.kind == "counter" else core.GaugeMetricFamily
        family = kind(metric.name, metric.text, labels=[RUN_LABEL])
        for name, figures in runs:
            for _, value, _ in samples(metric, figures):
                family.add_metric([name], value)
        yield family


def _forget_in_child() -> None:
    """A forked DataLoader worker must not hold the port when the trainer is gone: the next run wants it."""
    global _guard
    _guard = threading.RLock()  # whoever held it is not there
    for server in _servers.values():
        server.forget()
    _servers.clear()


os.register_at_fork(after_in_child=_forget_in_child)
