"""Spans of time as people type them: now, 30d, 12h; 90, 1.5s, 10m."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from ciuic.amounts import SPANS

if TYPE_CHECKING:
    _Timedelta = click.ParamType[timedelta]
    _Float = click.ParamType[float]
else:  # generic from click 8.4 on
    _Timedelta = _Float = click.ParamType


class Duration(_Timedelta):
    """ "now" for nothing, or a span: 12h, 30d, 8 weeks."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        from ciuic.history.revisions import parse_age

        age = parse_age(value)
        if age is None:
            self.fail(f"{value!r} is not a span of time. Write now, 12h, 30d or 8w.", param, ctx)
        return age


class Seconds(_Float):
    """A number of seconds, or a span: 90, 1.5s, 10m, 2h."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, (int, float)):
            return float(value)
        match = re.fullmatch(r"\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*([smhdw]?)\s*", str(value))
        if match is None:
            self.fail(f"{value!r} is not a span of time. Write 90, 1.5s, 10m or 2h.", param, ctx)
        return float(match[1]) * SPANS[match[2] or "s"]


DURATION = Duration()
SECONDS = Seconds()
