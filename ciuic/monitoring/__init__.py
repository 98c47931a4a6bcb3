"""Figures of a training's snapshots for Prometheus. Needs the package prometheus_client: ``ciuic[prometheus]``.

Everything is collected when Prometheus asks: a step costs nothing.
"""

from __future__ import annotations

from ciuic.monitoring.exporter import Exporter, register, serve

__all__ = ["Exporter", "register", "serve"]
