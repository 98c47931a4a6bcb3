"""P1 to P4, P6, P8: any history, by three handles in two processes, is what plain dictionaries say that it is.

Beside the ordinary: file effects fail, a process dies at one, the index is lost, damaged, old or another's.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest
from handle import Handle
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test
from ordinary_life import BRANCH, CHANGE, NUMBER, SEED, OrdinaryLife
from other_process import Died, Nursery
from training import State, fresh

from ciuic.errors import StorageError
from ciuic.store.reflog import NOTHING, SYMBOLIC
from ciuic.store.refs import HEAD, HEADS

EXAMPLES = int(os.environ.get("CIUIC_HISTORIES", 30))
STEPS = int(os.environ.get("CIUIC_HISTORY_STEPS", 50))
MOST_EFFECTS = 80
"""Of most operations; one that has fewer ends as if nothing had been."""


class Doing(NamedTuple):
    """An operation that may not come to its end. ``appends``: ref → the value of a record that it may leave there; None
    for that of a snapshot of ``state`` on ``parent``. ``expires``: logs may lose what is expired."""

    verb: str
    arguments: tuple[object, ...]
    appends: Mapping[str, str | None] = MappingProxyType({})
    state: State | None = None
    parent: str | None = None
    expires: bool = False


class Histories(OrdinaryLife):
    """Ordinary life, and accidents."""

    # Operations that do not come to their end

    def doing(self, what: str, branch: str, at: int, change: str, seed: int) -> Doing | None:
        snapshot, full, history = self.any_snapshot(at), HEADS + branch, self.history
        tip = history.value(full)
        if what == "commit":
            state = self.changed(history.states[tip] if tip else None, change, seed)
            return Doing("commit_to", (branch, state), {full: None}, state, tip)
        if what in ("gc", "repack"):
            return Doing(what, (False,) if what == "gc" else ())
        if what == "gc --expire now":
            return Doing("gc", (True,), expires=True)
        if snapshot is None:
            return None
        if what == "prune":
            return Doing("prune", (snapshot, None))
        if what == "flatten":
            return None if snapshot in history.pruned else Doing("flatten", (snapshot,))
        if what == "branch":
            return None if tip else Doing("create_ref", (HEADS, branch, snapshot), {full: snapshot})
        if tip is None:
            return None
        if what == "delete":
            return None if branch == history.head_branch else Doing("delete", (HEADS, branch), {full: NOTHING})
        if what == "switch":
            return Doing("switch", (branch, tip), {HEAD: SYMBOLIC + full})
        return Doing("reset", (branch, snapshot), {full: snapshot})

    WHAT = st.sampled_from(
        [
            *["commit"] * 3,
            *("gc", "gc --expire now", "repack", "flatten"),
            *("prune", "branch", "delete", "switch", "reset"),
        ]
    )

    @rule(
        what=WHAT, branch=BRANCH, snapshot=NUMBER, change=CHANGE, seed=SEED,
        at=st.integers(0, MOST_EFFECTS), how=st.sampled_from(["before", "half", "after"]),
    )  # fmt: skip
    def a_process_dies(self, what: str, branch: str, snapshot: int, change: str, seed: int, at: int, how: str) -> None:
        """At its Nth file effect: before it, in the middle of a write, or after it."""
        doing = self.doing(what, branch, snapshot, change, seed)
        if doing is None:
            return
        other = self.handles[2]
        other.call("arm_to_die", at, how)
        try:
            self.do(2, doing.verb, *doing.arguments)
            other.call("disarm")
        except Died:
            self.last.pop(2, None)
        self.take_up(doing)

    @rule(
        what=WHAT, who=st.integers(0, 2), branch=BRANCH, snapshot=NUMBER, change=CHANGE, seed=SEED,
        at=st.integers(0, MOST_EFFECTS), number=st.sampled_from([errno.EIO, errno.ENOSPC]), short=st.booleans(),
    )  # fmt: skip
    def the_disk_fails(
        self, what: str, who: int, branch: str, snapshot: int, change: str, seed: int, at: int, number: int, *,
        short: bool,
    ) -> None:
        """Once, at the Nth file effect: whatever raised has left each ref as it was."""
        doing = self.doing(what, branch, snapshot, change, seed)
        if doing is None:
            return
        self.do(who, "arm_to_fail", at, number, short)
        try:
            self.do(who, doing.verb, *doing.arguments)
        except StorageError:
            self.take_up(doing._replace(appends={}))
        else:
            self.take_up(doing)
        self.do(who, "disarm")

    def take_up(self, doing: Doing) -> None:
        """Each ref is at its old or at its new value: the model goes on with what came about."""
        handle, history = Handle(self.path), self.history
        actual, expired = handle.logs(), history.expired()
        for ref in sorted({*actual, *history.logs}):
            old, now = history.logs.get(ref, []), actual.get(ref, [])
            if now == old or (doing.expires and now == expired.get(ref, [])):
                continue
            assert ref in doing.appends and now[:-1] == old, (ref, old, now)
            value = doing.appends[ref]
            if value is None:
                assert doing.state is not None
                history.add(now[-1], doing.state, doing.parent)
                assert handle.load(now[-1]) == history.contents(now[-1])
            else:
                assert now[-1] == value
        if doing.verb == "prune":
            (snapshot, component) = doing.arguments
            before = history.pruned.get(str(snapshot), frozenset())
            now_gone = handle.prunes().get(str(snapshot), frozenset())
            assert now_gone in (before, before | {component or "*"})
            if now_gone:
                history.pruned[str(snapshot)] = now_gone
        if doing.verb in ("gc", "repack"):
            history.sweep(actual)
        history.logs = actual

    # What becomes of the index

    @rule(
        state=st.sampled_from(["missing", "unstamped", "truncated", "random", "old", "foreign"]), vouched=st.booleans()
    )
    def the_index(self, state: str, *, vouched: bool) -> None:
        self.sound = False
        INDEX[state](Path(self.path, "index"), Path(self.folder))
        if vouched and state in ("old", "foreign"):
            self.handles[0].vouch()

    @rule()
    def the_index_is_copied(self) -> None:
        """To come back one day."""
        shutil.rmtree(os.path.join(self.folder, "old"), ignore_errors=True)
        shutil.copytree(os.path.join(self.path, "index"), os.path.join(self.folder, "old"))


def missing(index: Path, folder: Path) -> None:
    shutil.rmtree(index)


def unstamped(index: Path, folder: Path) -> None:
    (index / "stamp").unlink(missing_ok=True)


def truncated(index: Path, folder: Path) -> None:
    if (index / "data.mdb").exists():
        os.truncate(index / "data.mdb", 5000)


def random(index: Path, folder: Path) -> None:
    index.mkdir(exist_ok=True)
    (index / "data.mdb").write_bytes(os.urandom(40960))


def old(index: Path, folder: Path) -> None:
    if (folder / "old").exists():
        shutil.rmtree(index, ignore_errors=True)
        shutil.copytree(folder / "old", index)


def foreign(index: Path, folder: Path) -> None:
    if not (folder / "theirs").exists():
        Handle.create(str(folder / "theirs")).commit(fresh(1))
    shutil.rmtree(index, ignore_errors=True)
    shutil.copytree(folder / "theirs" / "index", index)


INDEX: dict[str, Callable[[Path, Path], None]] = {
    each.__name__: each for each in (missing, unstamped, truncated, random, old, foreign)
}


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    nursery = Nursery(str(tmp_path))
    yield nursery
    nursery.close()


def test_histories(nursery: Nursery, caplog: pytest.LogCaptureFixture) -> None:
    """CIUIC_HISTORIES and CIUIC_HISTORY_STEPS say how many, and how long; without, always the same ones are run."""
    caplog.set_level("ERROR", "ciuic")  # that a run goes on on another branch is what they often do
    Histories.nursery = nursery
    run_state_machine_as_test(
        Histories,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize="CIUIC_HISTORIES" not in os.environ,
            database=None,
            print_blob=True,
            report_multiple_bugs=False,
        ),
    )
