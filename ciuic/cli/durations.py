"""Spans of time as people type them: now, 30d, 12h."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    _Timedelta = click.ParamType[timedelta]
else:  # generic from click 8.4 on
    _Timedelta = click.ParamType

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Duration(_Timedelta):
    """ "now" for nothing, or a number with a unit: s, m, h, d, w."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        if value == "now":
            return timedelta(0)
        match = re.fullmatch(r"(\d{1,6})([smhdw])", value)
        if match is None:
            self.fail(f"{value!r} is not a span of time. Write now, 12h, 30d or 8w.", param, ctx)
        return timedelta(**{_UNITS[match[2]]: int(match[1])})


DURATION = Duration()
