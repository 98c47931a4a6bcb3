"""Spans of time as people type them: now, 30d, 12h."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    _Timedelta = click.ParamType[timedelta]
else:  # generic from click 8.4 on
    _Timedelta = click.ParamType


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


DURATION = Duration()
