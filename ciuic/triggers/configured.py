"""The table ``[triggers]`` of ``config.toml`` → triggers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ciuic.errors import InvalidConfig
from ciuic.triggers.alertmanager import AlertmanagerWebhook
from ciuic.triggers.best import BestMetric
from ciuic.triggers.budget import Budget
from ciuic.triggers.clock import EverySeconds
from ciuic.triggers.engine import Trigger
from ciuic.triggers.exceptions import OnException, OutOfMemory
from ciuic.triggers.finite import NonFinite
from ciuic.triggers.prometheus import PrometheusQuery
from ciuic.triggers.requests import OnRequest
from ciuic.triggers.signals import Signals
from ciuic.triggers.spikes import LossSpike
from ciuic.triggers.steps import EverySteps


class Kind(NamedTuple):
    """What a value in the table may be, in words, and how to know it."""

    words: str
    fits: Callable[[Any], bool]


WHOLE = Kind("a whole number", lambda value: type(value) is int)
NUMBER = Kind("a number", lambda value: type(value) is int or (type(value) is float and math.isfinite(value)))
TEXT = Kind("text", lambda value: type(value) is str)
TEXTS = Kind("a list of texts", lambda value: type(value) is list and all(type(each) is str for each in value))
LABELS = Kind(
    "a table of texts", lambda value: type(value) is dict and all(type(each) is str for each in value.values())
)


class Setting(NamedTuple):
    """One line of the table: ``keywords`` of its table form, and the ``short`` one that stands for the table.

    ``switch``: true and false say whether there is one, with what a keyword says by default. ``many``: a list of tables
    makes one trigger each.
    """

    make: Callable[..., Trigger]
    keywords: Mapping[str, Kind] = {}
    short: str | None = None
    switch: bool = False
    many: bool = False
    default: bool = False


SETTINGS: dict[str, Setting] = {
    "every_steps": Setting(EverySteps, {"interval": WHOLE}, "interval"),
    "every_seconds": Setting(EverySeconds, {"interval_s": NUMBER}, "interval_s"),
    "budget": Setting(Budget, {"share": NUMBER, "least_s": NUMBER}, "share"),
    "best_metric": Setting(BestMetric, {"metric": TEXT, "mode": TEXT, "margin": NUMBER}, "metric", many=True),
    "non_finite": Setting(lambda metrics=(): NonFinite(*metrics), {"metrics": TEXTS}, "metrics", switch=True),
    "loss_spike": Setting(LossSpike, {"window": WHOLE, "factor": NUMBER, "metric": TEXT}, switch=True),
    "exceptions": Setting(OnException, switch=True),
    "out_of_memory": Setting(OutOfMemory, switch=True),
    "signals": Setting(Signals, {"leave": TEXTS, "go_on": TEXTS, "grace_s": NUMBER}, switch=True),
    "on_request": Setting(OnRequest, switch=True, default=True),
    "prometheus": Setting(
        PrometheusQuery,
        {"url": TEXT, "query": TEXT, "above": NUMBER, "below": NUMBER, "every_s": NUMBER, "for_s": NUMBER},
        many=True,
    ),
    "alertmanager": Setting(AlertmanagerWebhook, {"port": WHOLE, "labels": LABELS}, "port"),
}


def combined(table: Mapping[str, Any], given: Sequence[Trigger]) -> list[Trigger]:
    """The triggers of a run: those ``given`` in Python, and those of the table whose kind is not among them.

    Without a word in either, a run hears ``ciuic snap``. InvalidConfig names the setting.
    """
    kinds = {type(trigger) for trigger in given}
    return [*given, *(trigger for trigger in configured(table) if type(trigger) not in kinds)]


def configured(table: Mapping[str, Any]) -> list[Trigger]:
    """The triggers that the table asks for, in a fixed order; InvalidConfig names the setting."""
    for name in table:
        if name not in SETTINGS:
            raise InvalidConfig(f"config.toml: unknown trigger {name!r}. Known: {', '.join(SETTINGS)}.")
    return [
        trigger
        for name, setting in SETTINGS.items()
        for trigger in _made(f"config.toml: triggers.{name}", setting, table.get(name, setting.default or None))
    ]


def _made(path: str, setting: Setting, value: Any) -> list[Trigger]:
    if value is None or (value is False and setting.switch):
        return []
    if isinstance(value, list) and setting.many:
        return [trigger for each in value for trigger in _made(path, setting, each)]
    if value is True and setting.switch:
        value = {}
    elif not isinstance(value, dict):
        if setting.short is None:
            raise InvalidConfig(f"{path} must be {_forms(setting)}, not {value!r}.")
        value = {setting.short: value}
    for name, each in value.items():
        if name not in setting.keywords:
            raise InvalidConfig(f"{path}: unknown setting {name!r}. Known: {', '.join(setting.keywords) or 'none'}.")
        if not setting.keywords[name].fits(each):
            raise InvalidConfig(f"{path}: {name} must be {setting.keywords[name].words}, not {each!r}.")
    try:
        return [setting.make(**value)]
    except ValueError as error:
        raise InvalidConfig(f"{path}: {str(error).rstrip('.')}.") from error
    except TypeError:
        lacking = ", ".join(name for name in setting.keywords if name not in value)
        raise InvalidConfig(f"{path} lacks a setting: {lacking}.") from None


def _forms(setting: Setting) -> str:
    """What the value may be, in words."""
    forms = ["true or false"] if setting.switch else []
    forms += ["a table"] if setting.keywords else []
    forms += ["a list of tables"] if setting.many else []
    return " or ".join(forms)
