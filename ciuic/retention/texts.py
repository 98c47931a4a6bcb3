"""Policies ↔ text: "keep-last=20", "drop=optimizer:7d". One form for files, people and processes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ciuic.amounts import parse_size, parse_span
from ciuic.errors import InvalidConfig
from ciuic.retention.policies import (
    MODES,
    AnyPolicy,
    DropComponents,
    KeepBest,
    KeepDaily,
    KeepEvery,
    KeepHourly,
    KeepLast,
    KeepTagged,
    SizeBudget,
)

COUNT = re.compile(r"[0-9]{1,18}")


def _count(text: str) -> int:
    if not COUNT.fullmatch(text):
        raise ValueError(f"{text!r} is no whole number")
    return int(text)


def _best(text: str) -> KeepBest:
    """metric:count, with :min or :max behind it; a metric may have colons in its name."""
    mode = "min"
    head, _, last = text.rpartition(":")
    if last in MODES:
        text, mode = head, last
    metric, _, count = text.rpartition(":")
    return KeepBest(_count(count), metric, mode)  # type: ignore[arg-type]  # one of MODES


def _budget(text: str) -> SizeBudget:
    nbytes = parse_size(text)
    if nbytes is None:
        raise ValueError(f"{text!r} is no size: write 200GiB")
    return SizeBudget(nbytes)


def _drop(text: str) -> DropComponents:
    """component+component:age."""
    names, _, age = text.rpartition(":")
    components = tuple(names.split("+"))
    if COUNT.fullmatch(age):
        return DropComponents(components, snapshots=int(age))
    if age.endswith("steps"):
        return DropComponents(components, steps=_count(age.removesuffix("steps").strip()))
    seconds = parse_span(age)
    if seconds is None:
        raise ValueError(f"{age!r} is no age: write 20 (the newest so many keep them), 10000steps or 7d")
    return DropComponents(components, seconds=seconds)


FORMS: dict[str, tuple[Callable[[str], AnyPolicy], str]] = {
    "keep-last": (lambda text: KeepLast(_count(text)), "keep-last=20"),
    "keep-every": (lambda text: KeepEvery(_count(text)), "keep-every=1000"),
    "keep-hourly": (lambda text: KeepHourly(_count(text)), "keep-hourly=24"),
    "keep-daily": (lambda text: KeepDaily(_count(text)), "keep-daily=14"),
    "keep-best": (_best, "keep-best=loss:3 or keep-best=accuracy:3:max"),
    "size-budget": (_budget, "size-budget=200GiB"),
    "drop": (_drop, "drop=optimizer:20, drop=optimizer:10000steps or drop=optimizer+gradients:7d"),
}
TAGGED = "keep-tagged"
NAMES = (*FORMS, TAGGED)


def parse_policy(text: str) -> AnyPolicy:
    """The policy of a text; ValueError says what is wrong with it."""
    name, equals, value = text.partition("=")
    name = name.strip().replace("_", "-")
    if name == TAGGED and not equals:
        return KeepTagged()
    if name not in FORMS:
        raise ValueError(f"{name!r} is no retention policy. There are {', '.join(NAMES)}.")
    parse, example = FORMS[name]
    try:
        return parse(value.strip())
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}. Write {example}.") from None


def policies_of(given: Iterable[AnyPolicy | str]) -> tuple[AnyPolicy, ...]:
    """Policies, each as an object or a text; ValueError."""
    return tuple(parse_policy(each) if isinstance(each, str) else each for each in given)


def policies_in(table: Mapping[str, Any]) -> tuple[AnyPolicy, ...]:
    """Those of config.toml's table ``[retention]``: a key is a policy's name, several of one kind are a list."""
    texts: list[str] = []
    for name, value in table.items():
        if name.replace("_", "-") == TAGGED and isinstance(value, bool):
            texts += [TAGGED] if value else []
            continue
        values = value if isinstance(value, list) else [value]
        wrong = [each for each in values if isinstance(each, bool) or not isinstance(each, (int, str))]
        if wrong:
            raise InvalidConfig(f"config.toml, [retention]: {name} cannot be {wrong[0]!r}. Write a number or a text.")
        texts += [f"{name}={each}" for each in values]
    try:
        return policies_of(texts)
    except ValueError as error:
        raise InvalidConfig(f"config.toml, [retention]: {error}") from error
