"""How much to read, as people type it: 5%, 10GiB, 10m."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ciuic.store.verification import Budget

    _Budget = click.ParamType[Budget]
else:  # generic from click 8.4 on
    _Budget = click.ParamType


class Amount(_Budget):
    """A share of the packs, a size, or a time."""

    name = "amount"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Budget:
        from ciuic.store.verification import Budget, parse_budget

        budget = value if isinstance(value, Budget) else parse_budget(value)
        if budget is None:
            self.fail(f"{value!r} is no amount to read. Write 5%, 10GiB or 10m (minutes).", param, ctx)
        return budget


AMOUNT = Amount()
