"""The names under which figures are exported; docs/monitoring.md lists them, dashboard and alerts use them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from ciuic.monitoring.figures import Figures

RUN_LABEL = "run"
PHASE_LABEL = "phase"


@dataclass(frozen=True)
class Metric:
    """``value``: of a run's figures; None for no sample. A summary has none: its values are those of the phases.

    The samples of a counter are named ``name`` and "_total", those of a summary ``name`` and "_count" or "_sum".
    """

    name: str
    kind: Literal["counter", "gauge", "summary"]
    text: str
    value: Callable[[Figures], float | None] = lambda figures: None

    @property
    def samples(self) -> tuple[str, ...]:
        """The names that Prometheus sees."""
        endings = {"counter": ("_total",), "gauge": ("",), "summary": ("_count", "_sum")}
        return tuple(self.name + ending for ending in endings[self.kind])


def _counted(what: str) -> Callable[[Figures], float]:
    return lambda figures: figures.counts[what]


def _saving(figures: Figures) -> float | None:
    return 1 - figures.added_bytes / figures.raw_bytes if figures.raw_bytes else None


def _saved_at(figures: Figures) -> float | None:
    return None if figures.newest is None else figures.newest.timestamp.timestamp()


def _age(figures: Figures) -> float | None:
    saved_at = _saved_at(figures)
    return None if saved_at is None else max(0.0, figures.now - saved_at)


METRICS = (
    Metric("ciuic_snapshots", "counter", "Durable snapshots of this run.", lambda figures: figures.snapshots),
    Metric("ciuic_snapshots_unchanged", "counter", "Snapshots with the state of their parent.", _counted("unchanged")),
    Metric("ciuic_snapshots_torn", "counter", "Copies dropped because the state changed meanwhile.", _counted("torn")),
    Metric("ciuic_snapshots_skipped", "counter", "Snapshots left out: every slot was in use.", _counted("skipped")),
    Metric("ciuic_snapshots_failed", "counter", "Snapshots that did not come about.", _counted("failed")),
    Metric("ciuic_write_retries", "counter", "Writes that were tried again.", _counted("retries")),
    Metric("ciuic_writer_deaths", "counter", "Deaths of the writer process.", _counted("writer_deaths")),
    Metric("ciuic_writer_stalls", "counter", "Writers killed without a sign of life.", _counted("writer_stalls")),
    Metric("ciuic_raw_bytes", "counter", "State in durable snapshots.", lambda figures: figures.raw_bytes),
    Metric("ciuic_added_bytes", "counter", "What the store grew by for it.", lambda figures: figures.added_bytes),
    Metric("ciuic_saving_ratio", "gauge", "Share of the state that needed no room, in this run.", _saving),
    Metric("ciuic_snapshot_seconds", "summary", "What durable snapshots took, by phase: call, fence, copy, …"),
    Metric("ciuic_step", "gauge", "The newest step that ended.", lambda figures: figures.step),
    Metric(
        "ciuic_last_snapshot_step", "gauge", "The step of the newest durable snapshot.",
        lambda figures: None if figures.newest is None else figures.newest.step,
    ),
    Metric("ciuic_last_snapshot_timestamp_seconds", "gauge", "When that was taken, since 1970.", _saved_at),
    Metric("ciuic_last_snapshot_age_seconds", "gauge", "How long ago that was.", _age),
    Metric("ciuic_start_timestamp_seconds", "gauge", "When the run began, since 1970.", lambda each: each.started),
    Metric(
        "ciuic_monitoring_errors", "counter", "Times the repository could not be read for this.",
        lambda figures: figures.errors,
    ),
)  # fmt: skip


def samples(metric: Metric, figures: Figures) -> Iterator[tuple[str, float, int]]:
    """(phase, value, count) of each; the phase is "" and the count 0 but for a summary."""
    if metric.kind == "summary":
        for phase, (count, seconds) in figures.seconds.items():
            yield phase, seconds, count
        return
    value = metric.value(figures)
    if value is not None:
        yield "", float(value), 0
