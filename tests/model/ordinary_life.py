"""A repository's ordinary life as a state machine: what people and programs do with it, one after the other."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import training
from handle import CHUNK, Handle
from history import History
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from other_process import Nursery, OtherProcess
from training import CHANGES, State

from ciuic.errors import Pruned, RefError, RefExists
from ciuic.store.reflog import NOTHING, SYMBOLIC
from ciuic.store.refs import HEAD, HEADS, TAGS

WHO = st.integers(0, 2)
"""Two handles of this process, and one of another."""
NUMBER = st.integers(0, 1000)
SEED = st.integers(0, 7)
CHANGE = st.sampled_from(sorted(CHANGES))
BRANCH = st.sampled_from(["main", "a", "b"])
COMPONENT = st.sampled_from([None, None, "model", "optimizer", "extra"])


class OrdinaryLife(RuleBasedStateMachine):
    """After each step the logs, and one snapshot after the other, are what the dictionaries say."""

    nursery: Nursery

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.mkdtemp()
        self.path = os.path.join(self.folder, "repo")
        self.handles: list[Any] = [Handle.create(self.path), Handle(self.path), OtherProcess(self.nursery, self.path)]
        self.history = History()
        self.last: dict[int, State] = {}
        self.turn = 0
        self.sound = True

    def teardown(self) -> None:
        if not hasattr(self, "handles"):
            return
        try:
            if self.sound:
                self.look_at_everything()
        finally:
            self.handles[2].close()
            shutil.rmtree(self.folder)

    def do(self, who: int, verb: str, *arguments: object) -> Any:
        self.sound = False
        handle = self.handles[who]
        return handle.call(verb, *arguments) if who == 2 else getattr(handle, verb)(*arguments)

    def any_snapshot(self, number: int) -> str | None:
        needed = self.history.needed()
        return needed[number % len(needed)] if needed else None

    def any_branch(self, number: int) -> str | None:
        live = self.history.branches()
        return live[number % len(live)] if live else None

    def changed(self, before: State | None, change: str, seed: int) -> State:
        return training.fresh(seed % 3) if before is None else CHANGES[change](before, seed)

    # Saving

    @rule(who=WHO, branch=BRANCH, change=CHANGE, seed=SEED)
    def commit_to(self, who: int, branch: str, change: str, seed: int) -> None:
        parent = self.history.value(HEADS + branch)
        state = self.changed(self.history.states[parent] if parent else None, change, seed)
        id = self.do(who, "commit_to", branch, state)
        self.history.add(id, state, parent)
        self.history.log(HEADS + branch, id)

    @rule(who=WHO, change=CHANGE, seed=SEED)
    def commit(self, who: int, change: str, seed: int) -> None:
        """As a trainer does: where another one has moved the branch, it goes on on a new one."""
        history = self.history
        state = self.last[who] = self.changed(self.last.get(who), change, seed)
        id, before, after = self.do(who, "commit", state)
        history.add(id, state, None if before.parent in history.collected else before.parent)
        tip = history.value(HEADS + before.branch) if before.branch else None
        if before.branch is not None and tip == before.parent:
            assert after.branch == before.branch
        else:
            assert after.branch not in [*history.branches(), None]
            raced = before.branch is not None and tip is not None
            attached = SYMBOLIC + HEADS + after.branch
            if not raced and history.value(HEAD) == before.head != attached:
                history.log(HEAD, attached)
        history.log(HEADS + after.branch, id)
        assert after.parent == id

    # Refs

    @rule(who=WHO, prefix=st.sampled_from([HEADS, TAGS]), name=st.sampled_from(["a", "b", "c"]), at=NUMBER)
    def create(self, who: int, prefix: str, name: str, at: int) -> None:
        snapshot = self.any_snapshot(at)
        if snapshot is None:
            return
        if self.history.value(prefix + name) is None:
            self.do(who, "create_ref", prefix, name, snapshot)
            self.history.log(prefix + name, snapshot)
        else:
            with pytest.raises(RefExists):
                self.do(who, "create_ref", prefix, name, snapshot)

    @rule(who=WHO, prefix=st.sampled_from([HEADS, HEADS, TAGS]), name=st.sampled_from(["a", "b", "c", "main"]))
    def delete(self, who: int, prefix: str, name: str) -> None:
        if self.history.value(prefix + name) and not (prefix == HEADS and name == self.history.head_branch):
            self.do(who, "delete", prefix, name)
            self.history.log(prefix + name, NOTHING)
        else:
            with pytest.raises(RefError):
                self.do(who, "delete", prefix, name)

    @rule(who=WHO, branch=NUMBER, at=NUMBER)
    def reset(self, who: int, branch: int, at: int) -> None:
        name, snapshot = self.any_branch(branch), self.any_snapshot(at)
        if name is not None and snapshot is not None:
            self.do(who, "reset", name, snapshot)
            if self.history.value(HEADS + name) != snapshot:
                self.history.log(HEADS + name, snapshot)

    @rule(who=WHO, branch=NUMBER, at=st.one_of(st.none(), NUMBER))
    def switch(self, who: int, branch: int, at: int | None) -> None:
        """To a branch, or to any snapshot."""
        name = None if at is not None else self.any_branch(branch)
        snapshot = self.any_snapshot(at or 0) if name is None else self.history.value(HEADS + name)
        if snapshot is not None:
            self.do(who, "switch", name, snapshot)
            value = snapshot if name is None else SYMBOLIC + HEADS + name
            if self.history.value(HEAD) != value:
                self.history.log(HEAD, value)

    @rule(who=WHO, at=NUMBER)
    def restore(self, who: int, at: int) -> None:
        snapshot = self.any_snapshot(at)
        if snapshot is not None and snapshot not in self.history.pruned:
            self.do(who, "restored", snapshot, None)
            self.last[who] = self.history.states[snapshot]

    # Upkeep

    @rule(who=WHO, at=NUMBER, component=COMPONENT)
    def prune(self, who: int, at: int, component: str | None) -> None:
        snapshot = self.any_snapshot(at)
        if snapshot is not None:
            self.do(who, "prune", snapshot, component)
            self.give_up(snapshot, component)

    def give_up(self, snapshot: str, component: str | None) -> None:
        gone = self.history.pruned.get(snapshot, frozenset())
        self.history.pruned[snapshot] = gone | {component or "*"}

    @rule(who=WHO, branch=NUMBER, keep=st.integers(2, 4))
    def retain(self, who: int, branch: int, keep: int) -> None:
        """Of a branch, each ``keep``-th snapshot and the newest two."""
        name = self.any_branch(branch)
        line = [self.history.value(HEADS + name)] if name else []
        while line and self.history.parents[str(line[-1])]:
            line.append(self.history.parents[str(line[-1])][0])
        for number, snapshot in enumerate(map(str, line)):
            if number > 1 and number % keep and snapshot not in self.history.pruned:
                self.do(who, "prune", snapshot, None)
                self.give_up(snapshot, None)

    @rule(who=WHO, expire=st.booleans())
    def gc(self, who: int, *, expire: bool) -> None:
        forecast = self.do(who, "gc", expire, True)
        report = self.do(who, "gc", expire)
        self.history.sweep(self.history.expired() if expire else None)
        assert forecast.snapshots == report.snapshots == len(self.history.needed())
        self.little_is_kept_besides(report.kept_bytes)

    @rule(who=WHO)
    def repack(self, who: int) -> None:
        report = self.do(who, "repack")
        self.history.sweep()
        assert report.snapshots == len(self.history.needed())
        self.little_is_kept_besides(report.kept_bytes)

    def little_is_kept_besides(self, kept: int) -> None:
        assert kept == sum(each.stat().st_size for each in Path(self.path, "packs").iterdir())
        bound = 1.3 * self.history.raw_bytes(CHUNK) + 4500 * len(self.history.needed()) + 4096
        assert kept <= bound, (kept, bound)
        assert os.listdir(os.path.join(self.path, "trash")) == os.listdir(os.path.join(self.path, "quarantine")) == []

    @rule(who=WHO, at=NUMBER)
    def flatten(self, who: int, at: int) -> None:
        snapshot = self.any_snapshot(at)
        if snapshot is None:
            return
        if "*" in self.history.pruned.get(snapshot, ()):
            with pytest.raises(Pruned):
                self.do(who, "flatten", snapshot)
        else:
            self.do(who, "flatten", snapshot)

    @rule(who=WHO)
    def open_again(self, who: int) -> None:
        self.last.pop(who, None)
        if who == 2:
            self.handles[2].close()
        else:
            self.handles[who] = Handle(self.path)

    # What is there

    @invariant()
    def is_as_it_should_be(self) -> None:
        """Every log, and one snapshot, through one handle after the other."""
        if not hasattr(self, "handles"):
            return
        self.turn += 1
        who = self.turn % 3
        assert self.do(who, "logs") == self.history.logs
        snapshot = self.any_snapshot(self.turn)
        if snapshot is not None:
            self.compare(who, snapshot)
        self.sound = True

    def compare(self, who: int, snapshot: str) -> None:
        if "*" in self.history.pruned.get(snapshot, ()):
            assert self.do(who, "is_pruned", snapshot)
        else:
            assert self.do(who, "load", snapshot) == self.history.contents(snapshot)
        assert self.do(who, "parents", snapshot) == self.history.parents[snapshot]

    @rule(who=WHO)
    def fsck(self, who: int) -> None:
        report = self.do(who, "fsck")
        assert report.ok, report.problems
        assert report.snapshots == len(self.history.needed())

    def look_at_everything(self) -> None:
        """As a new process sees it; and the next commit is made."""
        self.handles.append(Handle(self.path))
        self.fsck(3)
        for snapshot in self.history.needed():
            self.compare(3, snapshot)
        self.commit_to(3, "next", "stepped", 1)
        self.compare(3, str(self.history.value(HEADS + "next")))
