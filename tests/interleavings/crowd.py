"""A repository with something for everybody to do, and actors that do it at once."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import training
from handle import Handle
from schedule import Actor, Choice, Clock, Schedule, SteppedFileSystem
from training import State

from ciuic.errors import RefConflict, RefError
from ciuic.store.refs import HEADS


@dataclass
class World:
    """``states``: what each snapshot holds. ``line``: main's, oldest first. ``known``: what a deleted branch held."""

    path: Path
    states: dict[str, State] = field(default_factory=dict)
    line: list[str] = field(default_factory=list)
    known: State = field(default_factory=lambda: training.thawed(training.fresh(5), 6))

    def commit(self, handle: Handle, state: State, branch: str | None = None) -> str:
        """What has returned is kept."""
        id = handle.commit(state)[0] if branch is None else handle.commit_to(branch, state)
        self.states[id] = state
        return id

    @staticmethod
    def create(path: Path) -> World:
        """Main with deltas on deltas, branches from its middle, a deleted branch, a state that was given up."""
        world, handle = World(path), Handle.create(str(path))
        state = training.fresh(0)
        for seed in range(4):
            state = training.stepped(state, seed)
            world.line.append(world.commit(handle, state))
        for name in ("a", "b"):
            handle.create_ref(HEADS, name, world.line[2])
        world.commit(handle, world.known, "gone")
        world.commit(handle, training.fresh(4), "gone")
        handle.delete(HEADS, "gone")
        for id in [id for id in world.states if id not in world.line]:
            del world.states[id]
        handle.prune(world.line[0], None)
        del world.states[world.line[0]]
        return world

    def copy(self, path: Path) -> World:
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(self.path, path)
        return World(path, dict(self.states), self.line, self.known)

    @property
    def tip(self) -> State:
        return self.states[self.line[-1]]


Action = Callable[[World, Handle], object]


def train(world: World, handle: Handle) -> None:
    """Two commits to the branch that is followed."""
    state = world.tip
    for seed in (7, 8):
        state = training.stepped(state, seed)
        world.commit(handle, state)


def train_beside(world: World, handle: Handle) -> None:
    """Two commits to another branch: of what may be about to be swept, and of what main has."""
    world.commit(handle, world.known, "a")
    world.commit(handle, training.stepped(world.tip, 7), "a")


def gc(world: World, handle: Handle) -> None:
    handle.gc(True)


def gc_without_expiry(world: World, handle: Handle) -> None:
    handle.gc(False)


def repack(world: World, handle: Handle) -> None:
    handle.repack()


def flatten(world: World, handle: Handle) -> None:
    handle.flatten(world.line[2])


def restore(world: World, handle: Handle) -> None:
    """What nobody deletes reads as it was, at any moment."""
    for id in world.line[1:]:
        assert handle.load(id) == world.states[id].contents()


def move_refs(world: World, handle: Handle) -> None:
    """A branch is moved, made, deleted, and made again; who is too late for any of it is told so."""
    try:
        handle.reset("b", world.line[1])
    except RefConflict:  # whoever else moves it moves it there
        assert handle.logs()[HEADS + "b"][-1] == world.line[1]
    with contextlib.suppress(RefError):
        handle.create_ref(HEADS, "new", world.line[3])
        handle.delete(HEADS, "new")
        handle.create_ref(HEADS, "new", world.line[1])


def lose_the_index(world: World, handle: Handle) -> None:
    """And look: who looks makes it anew."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(world.path / "index")
    assert handle.logs()


ACTIONS: list[Action] = [
    train, train_beside, gc, gc_without_expiry, repack, flatten, restore, move_refs, lose_the_index,
]  # fmt: skip


def stepped_handle(path: Path) -> Handle:
    """A view from before, that stops at each effect. Its settings are read by now: up to Python 3.11 one lock guards a
    ``functools.cached_property`` of all objects in a process, and an actor that stopped with it would stop them all."""
    handle = Handle(str(path), SteppedFileSystem())
    assert handle.store.config.chunk_size and handle.store.network is None
    handle.logs()
    return handle


def meet(world: World, choose: Choice, clock: Clock, *actions: Action) -> tuple[Schedule, list[Actor]]:
    """All of them at once, each with a view from before; then everything that was acknowledged is there."""
    schedule = Schedule(choose, clock)
    handles = [stepped_handle(world.path) for _ in actions]
    named = {
        f"{action.__name__}_{number}": lambda action=action, handle=handle: action(world, handle)
        for number, (action, handle) in enumerate(zip(actions, handles, strict=True))
    }
    actors = list(schedule.run(**named).values())
    for actor in actors:
        if actor.error is not None:
            raise AssertionError("\n".join(schedule.trace[-300:])) from actor.error
    for handle in handles:
        for id in world.line[1:]:
            assert handle.load(id) == world.states[id].contents()
    everything_is_there(world, Handle(str(world.path)))
    return schedule, actors


def everything_is_there(world: World, handle: Handle) -> None:
    report = handle.fsck()
    assert report.ok, report.problems
    reachable = reached(handle)
    for id, state in world.states.items():
        assert id in reachable
        assert handle.load(id) == state.contents()
    assert handle.is_pruned(world.line[0])


def reached(handle: Handle) -> set[str]:
    """From any record."""
    stack = [value for values in handle.logs().values() for value in values if len(value) == 64]
    found: set[str] = set()
    while stack:
        id = stack.pop()
        if id not in found:
            found.add(id)
            stack += handle.parents(id)
    return found
