"""When to take a snapshot: small policy objects, and the engine that asks them at each boundary of a step."""

from ciuic.triggers.alertmanager import AlertmanagerWebhook
from ciuic.triggers.best import BestMetric
from ciuic.triggers.budget import Budget
from ciuic.triggers.clock import EverySeconds
from ciuic.triggers.engine import Decision, Engine, Leaving, Moment, Run, Trigger
from ciuic.triggers.exceptions import OnException, OutOfMemory
from ciuic.triggers.finite import NonFinite
from ciuic.triggers.prometheus import PrometheusQuery
from ciuic.triggers.requests import OnRequest
from ciuic.triggers.signals import Signals
from ciuic.triggers.spikes import LossSpike
from ciuic.triggers.steps import EverySteps

__all__ = [
    "AlertmanagerWebhook", "BestMetric", "Budget", "Decision", "Engine", "EverySeconds", "EverySteps", "Leaving",
    "LossSpike", "Moment", "NonFinite", "OnException", "OnRequest", "OutOfMemory", "PrometheusQuery", "Run", "Signals",
    "Trigger",
]  # fmt: skip
