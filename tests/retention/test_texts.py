"""Policies as people write them: on the command line and in config.toml."""

from __future__ import annotations

import pytest

from ciuic.errors import InvalidConfig
from ciuic.retention import (
    DropComponents,
    KeepBest,
    KeepDaily,
    KeepEvery,
    KeepHourly,
    KeepLast,
    KeepTagged,
    SizeBudget,
)
from ciuic.retention.texts import parse_policy, policies_in, policies_of


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("keep-last=20", KeepLast(20)),
        (" keep_last = 20", KeepLast(20)),
        ("keep-every=1000", KeepEvery(1000)),
        ("keep-hourly=24", KeepHourly(24)),
        ("keep-daily=14", KeepDaily(14)),
        ("keep-best=loss:3", KeepBest(3, "loss", "min")),
        ("keep-best=val:accuracy:3:max", KeepBest(3, "val:accuracy", "max")),
        ("keep-tagged", KeepTagged()),
        ("size-budget=200GiB", SizeBudget(200 << 30)),
        ("size-budget=1.5GB", SizeBudget(1_500_000_000)),
        ("size-budget=4096", SizeBudget(4096)),
        ("drop=optimizer:20", DropComponents(("optimizer",), snapshots=20)),
        ("drop=optimizer:10000steps", DropComponents(("optimizer",), steps=10000)),
        ("drop=optimizer+gradients:7d", DropComponents(("gradients", "optimizer"), seconds=7 * 86400)),
    ],
)
def test_forms(text: str, policy: object) -> None:
    """One text a policy; units where people write them."""
    assert parse_policy(text) == policy


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("keep-lats=20", "is no retention policy. There are keep-last"),
        ("keep-last", "Write keep-last=20"),
        ("keep-last=0", "at least 1"),
        ("keep-last=-1", "no whole number"),
        ("keep-last=9999999999999999999999", "no whole number"),
        ("keep-best=loss", "Write keep-best=loss:3"),
        ("keep-best=:3", "names a metric"),
        ("keep-tagged=yes", "is no retention policy"),
        ("size-budget=much", "is no size"),
        ("size-budget=0", "at least 1"),
        ("drop=optimizer", "Write drop=optimizer:20"),
        ("drop=:20", "names components"),
        ("drop=*:20", "names components"),
        ("drop=optimizer:0d", "at least 1"),
        ("drop=optimizer:long", "is no age"),
    ],
)
def test_what_is_wrong_is_said(text: str, problem: str) -> None:
    """With an example of what is right."""
    with pytest.raises(ValueError, match=problem):
        parse_policy(text)


def test_a_table_of_config_toml() -> None:
    """A key a policy; a list where there are several of one kind."""
    table = {
        "keep-last": 20,
        "keep_best": ["loss:3", "accuracy:1:max"],
        "keep-tagged": True,
        "size-budget": "200GiB",
        "drop": "optimizer:7d",
    }
    assert policies_in(table) == (
        KeepLast(20),
        KeepBest(3, "loss"),
        KeepBest(1, "accuracy", "max"),
        KeepTagged(),
        SizeBudget(200 << 30),
        DropComponents(("optimizer",), seconds=7 * 86400),
    )
    assert policies_in({}) == () == policies_in({"keep-tagged": False})


@pytest.mark.parametrize("table", [{"keep-lats": 1}, {"keep-last": True}, {"keep-last": 1.5}, {"drop": {"a": 1}}])
def test_a_wrong_table_is_an_invalid_configuration(table: dict[str, object]) -> None:
    """Nothing is kept, or pruned, by what was misunderstood."""
    with pytest.raises(InvalidConfig, match=r"\[retention\]"):
        policies_in(table)


def test_objects_and_texts_mix() -> None:
    """As ``Repo`` takes them."""
    assert policies_of([KeepLast(2), "keep-daily=3"]) == (KeepLast(2), KeepDaily(3))


@pytest.mark.parametrize("ages", [{}, {"steps": 3, "seconds": 3}, {"snapshots": 0}])
def test_dropping_takes_one_age(ages: dict[str, int]) -> None:
    """No more, and no less."""
    with pytest.raises(ValueError, match=r"one age|at least 1"):
        DropComponents(("optimizer",), **ages)
