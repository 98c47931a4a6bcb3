"""The pages that are written from the code, or must agree with it."""

from __future__ import annotations

import re
from pathlib import Path

from ciuic.cli.reference import updated
from ciuic.errors import CiuicError

DOCS = Path(__file__).parents[2] / "docs"


def test_the_command_reference_is_up_to_date() -> None:
    page = (DOCS / "commands.md").read_text(encoding="utf-8")
    assert page == updated(page), "run `python -m ciuic.cli.reference docs/commands.md`"


def test_every_error_kind_has_its_documented_exit_code() -> None:
    rows = re.findall(
        r"^\| (\d+) \| `([a-z-]+)` \|", (DOCS / "exit-codes.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    documented = {kind: int(code) for code, kind in rows}
    assert documented == {**_kinds(CiuicError), "unexpected": 1, "usage": 2}


def test_no_two_kinds_share_an_exit_code() -> None:
    kinds = _kinds(CiuicError)
    assert len(set(kinds.values())) == len(kinds)


def _kinds(error: type[CiuicError]) -> dict[str, int]:
    kinds = {error.kind: error.exit_code}
    for child in error.__subclasses__():
        kinds |= _kinds(child)
    return kinds
