"""Policies are pure: what they keep is a function of the log, whatever their order, and nothing protected ever goes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import APART, BEGIN

from ciuic.objects.snapshot import Snapshot
from ciuic.retention import (
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
from ciuic.retention.choosing import Choice, choose
from ciuic.retention.history import History
from ciuic.retention.texts import parse_policy

WHOLE = frozenset("*")


def snapshot(
    number: int, step: int | None = None, metrics: dict[str, float] | None = None, branch: str = ""
) -> Snapshot:
    return Snapshot(
        id=f"{branch}{number:04d}",
        step=number if step is None else step,
        epoch=None,
        timestamp=BEGIN + number * APART,
        message="",
        metrics=metrics or {},
        config={},
        parents=(),
        tree={"model": "aa", "optimizer": "bb"},
        contains=(),
        raw_bytes={"model": 100, "optimizer": 200},
        added_bytes=300,
    )


def history(*lines: Sequence[Snapshot], protected: dict[str, str] | None = None) -> History:
    """Of branches, of which the tips are protected, and whatever else is said to be."""
    tips = {line[-1].id: f"tip of {number}" for number, line in enumerate(lines) if line}
    return History(
        {each.id: each for line in lines for each in line},
        {str(number): tuple(each.id for each in line) for number, line in enumerate(lines)},
        {**tips, **(protected or {})},
    )


def kept_steps(line: Sequence[Snapshot], *policies: AnyPolicy, used: int = 0) -> list[int]:
    steps = {each.id: each.step or 0 for each in line}
    return sorted(steps[id] for id in choose(history(line), policies, used).kept)


LINE = [snapshot(number) for number in range(50)]


def test_the_newest_are_kept() -> None:
    """So many of each branch."""
    assert kept_steps(LINE, KeepLast(3)) == [47, 48, 49]
    other = [snapshot(number, branch="b") for number in range(5)]
    assert len(choose(history(LINE, other), [KeepLast(3)]).kept) == 6


@pytest.mark.parametrize(("first", "apart", "kept"), [(99, 100, [99, 999, 1999]), (0, 100, [0, 1000, 2000])])
def test_every_so_many_steps(first: int, apart: int, kept: list[int]) -> None:
    """By completed steps, so that 999 and 1000 are both a thousandth; the first after a gap stands for it."""
    line = [snapshot(number, step=step) for number, step in enumerate(range(first, 2100, apart))]
    assert kept_steps(line, KeepEvery(1000)) == sorted({*kept, line[-1].step or 0})
    gap = [each for each in line if each.step not in (999, 1000)]
    assert len(kept_steps(gap, KeepEvery(1000))) == len(kept_steps(line, KeepEvery(1000)))


def test_thinning_keeps_the_newest_of_each_hour_and_day() -> None:
    """Of the last hours, or days, that have any, by the calendar; pauses do not count."""
    assert kept_steps(LINE, KeepHourly(2)) == [42, 49]  # 4:54 and 5:43
    later = [
        *LINE,
        *(
            replace(
                each,
                id=f"later {each.id}",
                timestamp=each.timestamp + 9 * timedelta(days=1),
                step=100 + (each.step or 0),
            )
            for each in LINE
        ),
    ]
    assert kept_steps(later, KeepDaily(5)) == [49, 149]


def test_the_best_are_kept() -> None:
    """Smallest or largest; what is not a number, or was not measured, is not best; of equals the older."""
    values = [3.0, float("nan"), 1.0, 2.0, 1.0, 5.0]
    line = [snapshot(number, metrics={"loss": value}) for number, value in enumerate(values)]
    line += [snapshot(6)]
    assert kept_steps(line, KeepBest(1, "loss")) == [2, 6]
    assert kept_steps(line, KeepBest(2, "loss")) == [2, 4, 6]
    assert kept_steps(line, KeepBest(1, "loss", "max")) == [5, 6]
    assert kept_steps(line, KeepBest(9, "accuracy")) == [6]


def test_tags_alone() -> None:
    """Everything goes but what is protected."""
    choice = choose(history(LINE, protected={"0007": "tag a"}), [KeepTagged()])
    assert choice.kept == {"0007": ("tag a",), "0049": ("tip of 0",)}


def test_without_a_policy_that_keeps_all_are_kept() -> None:
    """A budget or a component's age alone lets nothing else go."""
    assert len(kept_steps(LINE)) == 50
    assert len(kept_steps(LINE, SizeBudget(10**9), used=300 * 50)) == 50


def test_a_budget_takes_the_oldest_of_what_the_fewest_policies_keep() -> None:
    """Until it fits, as far as what the commits added tells."""
    assert kept_steps(LINE, SizeBudget(300 * 10), used=300 * 50) == [*range(40, 50)]
    both = [KeepLast(20), KeepEvery(10), SizeBudget(300 * 5)]
    assert kept_steps(LINE, *both, used=300 * 50) == [29 + 10, *range(46, 50)]
    assert kept_steps(LINE, SizeBudget(1), used=300 * 50) == [49]


@pytest.mark.parametrize(
    "policy",
    [
        DropComponents(("optimizer",), snapshots=5),
        DropComponents(("optimizer", "rng"), steps=4),
        DropComponents(("optimizer",), seconds=4 * 7 * 60),
    ],
    ids=lambda policy: policy.text,
)
def test_components_of_what_is_old_enough_go(policy: DropComponents) -> None:
    """By place, step or time before the newest snapshot: here the three mean the same. The weights stay."""
    choice = choose(history(LINE), [policy])
    assert choice.pruned == {f"{number:04d}": {"optimizer"} for number in range(45)}
    assert len(choice.kept) == 50 and choice.freed_bytes == 45 * 200


def test_what_was_pruned_is_not_pruned_again() -> None:
    """A component that went before is no reason for a record, and counts no bytes."""
    before = replace(history(LINE), prunes={"0000": frozenset({"optimizer"})})
    choice = choose(before, [DropComponents(("optimizer",), snapshots=48)])
    assert choice.pruned == {"0001": {"optimizer"}}
    assert choose(before, [KeepLast(49)]).freed_bytes == 100


def test_a_snapshot_of_two_branches_stays_if_one_of_them_keeps_it() -> None:
    """And loses a component only if it is old in both."""
    trunk = LINE[:10]
    fork = [*trunk[:5], snapshot(90, branch="b")]
    assert set(choose(history(trunk, fork), [KeepLast(2)]).kept) == {"0008", "0009", "0004", "b0090"}
    dropped = choose(history(trunk, fork), [DropComponents(("optimizer",), snapshots=3)]).pruned
    assert set(dropped) == {"0000", "0001", "0002", "0005", "0006"}


def test_what_another_branch_has_is_not_judged() -> None:
    """A trainer's policies are for its branch: below a fork, and on the other side of it, nothing goes. Budgets are for
    the repository, and take the oldest wherever it is."""
    trunk = LINE[:10]
    fork = [*trunk[:5], *(snapshot(number, branch="b") for number in (90, 91, 92))]
    made = history(trunk, fork)
    assert choose(made, [KeepLast(1)], judged=["1"]).pruned.keys() == {"b0090", "b0091"}
    assert choose(made, [KeepLast(1)], judged=["0"]).pruned.keys() == {"0005", "0006", "0007", "0008"}
    assert choose(made, [KeepLast(1)], judged=[]).pruned == {}
    dropping = DropComponents(("optimizer",), seconds=60)
    assert choose(made, [dropping], judged=["1"]).pruned.keys() == {"b0090", "b0091"}
    budget = choose(made, [KeepLast(1), SizeBudget(300 * 9)], 300 * 13, judged=["1"])
    assert budget.pruned.keys() == {"0000", "0001", "b0090", "b0091"}


# For every history and every set of policies

POLICIES: st.SearchStrategy[AnyPolicy] = st.one_of(
    st.builds(KeepLast, st.integers(1, 9)),
    st.builds(KeepEvery, st.integers(1, 40)),
    st.builds(KeepHourly, st.integers(1, 5)),
    st.builds(KeepDaily, st.integers(1, 3)),
    st.builds(KeepBest, st.integers(1, 4), st.sampled_from(["loss", "accuracy"]), st.sampled_from(["min", "max"])),
    st.just(KeepTagged()),
)
OTHERS: st.SearchStrategy[AnyPolicy] = st.one_of(
    st.builds(SizeBudget, st.integers(1, 9000)),
    st.builds(DropComponents, st.just(("optimizer",)), snapshots=st.integers(1, 9)),
    st.builds(DropComponents, st.just(("model", "rng")), steps=st.integers(1, 30)),
    st.builds(DropComponents, st.just(("optimizer",)), seconds=st.integers(1, 9000)),
)


@st.composite
def lines(draw: st.DrawFn) -> list[Snapshot]:
    """A branch whose steps go up, and whose clock may not."""
    times = draw(st.lists(st.integers(0, 60 * 24 * 4), max_size=25))
    metrics = st.dictionaries(st.sampled_from(["loss", "accuracy"]), st.floats(width=16))
    step = 0
    line = []
    for number, minutes in enumerate(times):
        step += draw(st.integers(1, 9))
        made = snapshot(number, step=step, metrics=draw(metrics))
        line.append(replace(made, timestamp=BEGIN + timedelta(minutes=minutes)))
    return line


@st.composite
def histories(draw: st.DrawFn) -> History:
    """A trunk and a fork of it, with tags, and with components that went before."""
    trunk = draw(lines())
    at = draw(st.integers(0, len(trunk)))
    fork = [*trunk[:at], *(replace(each, id=f"b{each.id}") for each in draw(lines()))]
    ids = sorted({each.id for each in (*trunk, *fork)})
    tagged = draw(st.lists(st.sampled_from(ids), max_size=3)) if ids else []
    lost = draw(st.lists(st.sampled_from(ids), max_size=3)) if ids else []
    made = history(trunk, fork, protected=dict.fromkeys(tagged, "tag"))
    return replace(made, prunes={id: frozenset({"optimizer"}) for id in lost})


def pruned_whole(choice: Choice) -> set[str]:
    return {id for id, gone in choice.pruned.items() if gone == WHOLE}


@given(histories(), st.lists(POLICIES | OTHERS, max_size=5), st.integers(0, 20_000), st.randoms(use_true_random=False))
def test_order_does_not_matter(made: History, policies: list[AnyPolicy], used: int, chance: random.Random) -> None:
    """Nor does saying a thing twice."""
    shuffled = [*policies, *policies]
    chance.shuffle(shuffled)
    assert choose(made, shuffled, used) == choose(made, policies, used)


@given(histories(), st.lists(POLICIES | OTHERS, max_size=5), st.integers(0, 20_000))
def test_the_protected_always_stay_whole(made: History, policies: list[AnyPolicy], used: int) -> None:
    """Tips, tags and whatever else is protected lose nothing; and everything either stays or goes."""
    choice = choose(made, policies, used)
    assert not made.protected.keys() & choice.pruned.keys()
    assert choice.kept.keys() | pruned_whole(choice) == set(made.whole())
    assert not choice.kept.keys() & pruned_whole(choice)
    assert all(choice.kept.values()) and choice.freed_bytes >= 0


@given(histories(), st.lists(POLICIES | OTHERS, max_size=5), st.sampled_from(["0", "1"]))
def test_a_branch_judged_alone_keeps_what_the_other_one_has(
    made: History, policies: list[AnyPolicy], branch: str
) -> None:
    """And what judging all would keep; of its own, what is in no other branch, it keeps that and no more."""
    policies = [each for each in policies if not isinstance(each, SizeBudget)]
    alone, all_of_it = choose(made, policies, judged=[branch]), choose(made, policies)
    others = {id for name, line in made.lines.items() if name != branch for id in line}
    assert not others & alone.pruned.keys()
    assert pruned_whole(alone) == pruned_whole(all_of_it) - others


@given(histories(), st.lists(POLICIES, min_size=1, max_size=4), POLICIES)
def test_one_more_policy_that_keeps_keeps_more(made: History, policies: list[AnyPolicy], more: AnyPolicy) -> None:
    """What several keep is what each of them keeps, together."""
    together = choose(made, [*policies, more])
    assert together.kept.keys() == choose(made, policies).kept.keys() | choose(made, [more]).kept.keys()


@given(histories(), st.lists(POLICIES, max_size=3), st.integers(1, 9000), st.integers(0, 20_000), st.integers(0, 9000))
def test_a_larger_budget_keeps_more(
    made: History, policies: list[AnyPolicy], nbytes: int, used: int, more: int
) -> None:
    """And none keeps most. What went for a budget went in its order."""
    small = choose(made, [*policies, SizeBudget(nbytes)], used).kept.keys()
    large = choose(made, [*policies, SizeBudget(nbytes + more)], used).kept.keys()
    assert small <= large <= choose(made, policies).kept.keys()


@given(
    lines(),
    st.lists(POLICIES, min_size=1, max_size=4),
    st.lists(OTHERS.filter(lambda p: not isinstance(p, SizeBudget)), max_size=2),
)
def test_pruning_after_each_snapshot_ends_where_pruning_once_does(
    line: list[Snapshot], policies: list[AnyPolicy], drops: list[AnyPolicy]
) -> None:
    """Nothing that is kept in the end has gone on the way; and nothing stays that goes in the end."""
    gone: dict[str, frozenset[str]] = {}
    for length in range(1, len(line) + 1):
        whole = [each for each in line[:length] if gone.get(each.id) != WHOLE]
        made = replace(history(line[:length]), lines={"0": tuple(each.id for each in whole)}, prunes=dict(gone))
        for id, components in choose(made, [*policies, *drops]).pruned.items():
            gone[id] = WHOLE if components == WHOLE else gone.get(id, frozenset()) | components
    at_once = choose(history(line), policies)
    assert {id for id, components in gone.items() if components == WHOLE} == pruned_whole(at_once)


@given(POLICIES | OTHERS)
def test_every_policy_travels_as_text(policy: AnyPolicy) -> None:
    """And comes back as it was."""
    assert parse_policy(policy.text) == policy
