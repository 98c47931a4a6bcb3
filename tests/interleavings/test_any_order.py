"""P4, P8: commit, commit, gc, repack, restore and others at once, in any order of their file effects.

Every order is chosen by a seed, or by the place of one interruption, and is the same each time.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from crowd import ACTIONS, Action, World, gc, meet, restore, train, train_beside
from schedule import Clock, interrupted, seeded

RUNS = int(os.environ.get("CIUIC_INTERLEAVINGS", 40))
FIRST = int(os.environ.get("CIUIC_SEED", 0))
"""``CIUIC_SEED=N CIUIC_INTERLEAVINGS=1`` plays one seed again."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.create(tmp_path_factory.mktemp("world") / "repo")


def test_seeded(world: World, tmp_path: Path, clock: Clock) -> None:
    """Commit × commit × gc × restore, and in every other run four of all that there is."""
    for seed in range(FIRST, FIRST + RUNS):
        chance = random.Random(seed)
        actions = [train, train_beside, gc, restore] if seed % 2 else chance.sample(ACTIONS, 4)
        try:
            meet(world.copy(tmp_path / "repo"), seeded(seed), clock, *actions)
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {[each.__name__ for each in actions]}") from error


@pytest.mark.parametrize("first", ACTIONS, ids=lambda action: action.__name__)
def test_interrupted_once(world: World, tmp_path: Path, clock: Clock, first: Action) -> None:
    """Whatever is done by one happens whole between two file effects of another: everywhere, or at some places."""
    places = max(1, RUNS // 50)
    alone = meet(world.copy(tmp_path / "repo"), seeded(0), clock, first)[1][0].steps
    for number, second in enumerate(ACTIONS):
        stride = max(1, alone // places)
        for at in range((number * 7 + FIRST) % stride, alone, stride):
            try:
                meet(world.copy(tmp_path / "repo"), interrupted(f"{first.__name__}_0", at), clock, first, second)
            except BaseException as error:
                raise AssertionError(f"{second.__name__} at step {at} of {first.__name__}") from error
