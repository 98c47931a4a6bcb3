"""When to take a snapshot: small policy objects, and the engine that asks them at each boundary of a step."""

from ciuic.triggers.engine import Decision, Engine, Moment, Run, Trigger
from ciuic.triggers.steps import EverySteps

__all__ = ["Decision", "Engine", "EverySteps", "Moment", "Run", "Trigger"]
