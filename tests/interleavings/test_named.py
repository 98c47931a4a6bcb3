"""P4, P8: interleavings that have a name. docs/durability.md lists the others, which need no schedule.

What one does happens whole between two file effects of the other, at every place of it in turn.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import training
from crowd import Action, World, gc, meet, reached, repack, stepped_handle
from handle import Handle
from schedule import Clock, Schedule, interrupted, seeded
from training import State

from ciuic.errors import RefConflict, RefError
from ciuic.store.refs import HEADS

PLACES = int(os.environ.get("CIUIC_INTERLEAVINGS", 100)) // 8
"""At most so many of each test; spread over all there are."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.create(tmp_path_factory.mktemp("world") / "repo")


def at_every_place(world: World, folder: Path, clock: Clock, first: Action, second: Action) -> int:
    """How many places there were."""
    alone = meet(world.copy(folder / "repo"), seeded(0), clock, first)[1][0].steps
    places = range(0, alone, max(1, alone // max(1, PLACES)))
    for at in places:
        try:
            meet(world.copy(folder / "repo"), interrupted(f"{first.__name__}_0", at), clock, first, second)
        except BaseException as error:
            raise AssertionError(f"{second.__name__} at step {at} of {first.__name__}") from error
    return len(places)


def commit_what_was_known(world: World, handle: Handle) -> None:
    """Chunks that only a deleted branch has: known when they are looked up, and about to be swept."""
    world.commit(handle, world.known, "a")


def test_a_commit_that_found_a_chunk_known_just_before_a_sweep(world: World, tmp_path: Path, clock: Clock) -> None:
    """Wherever the sweep comes, the commit has its chunks; and wherever the commit comes, the sweep spares them."""
    assert at_every_place(world, tmp_path, clock, commit_what_was_known, gc) > 5
    assert at_every_place(world, tmp_path, clock, gc, commit_what_was_known) > 5


def expire(world: World, handle: Handle) -> None:
    """gc that forgets what the other one has read."""
    handle.gc(True)


def test_two_gcs_at_once_of_which_one_expires_a_log_that_the_other_has_read(
    world: World, tmp_path: Path, clock: Clock
) -> None:
    """A log is rewritten or removed under a gc that has marked what it named: that one starts again."""

    def keep(world: World, handle: Handle) -> None:
        handle.gc(False)

    assert at_every_place(world, tmp_path, clock, keep, expire) > 5
    assert at_every_place(world, tmp_path, clock, expire, keep) > 5


def move_a_branch(world: World, handle: Handle) -> None:
    """Its log has more than one record by then, so that a gc rewrites it."""
    handle.reset("a", world.line[3])
    handle.reset("a", world.line[2])
    world.commit(handle, training.stepped(world.tip, 9), "a")


def test_a_log_that_is_rewritten_while_a_committer_waits_for_it(world: World, tmp_path: Path, clock: Clock) -> None:
    """The record goes to the file that has the name then; see tests/store/test_reflogs.py for the lock itself."""
    assert at_every_place(world, tmp_path, clock, move_a_branch, gc) > 5


def delete_and_make_again(world: World, handle: Handle) -> None:
    handle.delete(HEADS, "b")
    handle.create_ref(HEADS, "b", world.line[1])


def commit_to_b(world: World, handle: Handle) -> None:
    """Acknowledged or refused, and never lost in between."""
    with contextlib.suppress(RefConflict):
        world.commit(handle, training.stepped(world.tip, 5), "b")


@pytest.mark.parametrize("second", [gc, commit_to_b], ids=lambda action: action.__name__)
def test_a_branch_that_is_deleted_and_made_again(world: World, tmp_path: Path, clock: Clock, second: Action) -> None:
    """Beside a gc that may remove its log in between, and beside a commit to it."""

    def again(world: World, handle: Handle) -> None:
        try:
            delete_and_make_again(world, handle)
        except RefError as error:  # the other one was faster: its commit stands on the branch
            assert second is commit_to_b, error

    assert at_every_place(world, tmp_path, clock, again, second) > 5


# Bases that cross


def crossed(folder: Path) -> tuple[Path, dict[str, State]]:
    """Two branches, of which each has as a delta what the other one has whole: X, then Y on it; Y, then X on it.

    A commit reuses what is there, so two packs like these come of processes that did not see each other's. Here they
    are made in two copies of one empty repository, and put together.
    """
    x = training.fresh(0)
    y = training.nudged(training.stepped(x, 1), 2)
    here, there, states = folder / "here", folder / "there", {}
    Handle.create(str(here))
    shutil.copytree(here, there)
    for path, branch, line in ((here, "a", (x, y)), (there, "b", (y, x))):
        handle = Handle(str(path))
        for state in line:
            states[handle.commit_to(branch, state)] = state
    for name in os.listdir(there / "packs"):
        shutil.copy(there / "packs" / name, here / "packs" / name)
    shutil.copy(there / "refs" / "heads" / "b", here / "refs" / "heads" / "b")
    shutil.rmtree(here / "index")
    shutil.rmtree(there)
    return here, states


def rows(handle: Handle) -> dict[bytes, list[tuple[int, bytes]]]:
    """Depth and base of each copy of each object."""
    found: dict[bytes, list[tuple[int, bytes]]] = {}
    with handle.store.shared():
        for name in handle.store.present:
            for row in handle.store.pack(name).rows:
                found.setdefault(row.header.id, []).append((row.header.depth, row.header.base))
    return found


def test_bases_that_cross_between_two_branches_and_a_repack_of_both(tmp_path: Path, clock: Clock) -> None:
    """Two repacks at once, beside a reader and a commit: of neither is the last whole copy dropped for the other's.

    Without depths each repack could keep, of X and of Y, the copy that rests on the other one.
    """
    original, states = crossed(tmp_path)
    copies = rows(Handle(str(original)))
    both = [id for id, found in copies.items() if len(found) > 1 and {0} < {depth for depth, _ in found}]
    assert len(both) >= 2, "each is there whole, and as a delta"
    for seed in range(PLACES):
        path = tmp_path / "repo"
        shutil.copytree(original, path)
        world = World(path, dict(states), [])
        chance = random.Random(seed)
        tips = {branch: str(Handle(str(path)).logs()[HEADS + branch][-1]) for branch in ("a", "b")}

        def look(world: World, handle: Handle) -> None:
            for id, state in list(states.items()):
                assert handle.load(id) == state.contents()

        def go_on(world: World, handle: Handle, branch: str = chance.choice("ab"), tips: dict[str, str] = tips) -> None:
            world.commit(handle, training.nudged(states[tips[branch]], 3), branch)

        run(world, clock, seed, repack, repack, look, go_on)
        shutil.rmtree(path)


def run(world: World, clock: Clock, seed: int, *actions: Callable[[World, Handle], object]) -> None:
    """As ``meet`` does, in a world without a past."""
    schedule = Schedule(seeded(seed), clock)
    handles = [stepped_handle(world.path) for _ in actions]
    named = {
        f"{action.__name__}_{number}": lambda action=action, handle=handle: action(world, handle)
        for number, (action, handle) in enumerate(zip(actions, handles, strict=True))
    }
    for actor in schedule.run(**named).values():
        if actor.error is not None:
            raise AssertionError(f"seed {seed}\n" + "\n".join(schedule.trace[-100:])) from actor.error
    handle = Handle(str(world.path))
    report = handle.fsck()
    assert report.ok, report.problems
    assert world.states.keys() <= reached(handle)
    for id, state in world.states.items():
        assert handle.load(id) == state.contents()
