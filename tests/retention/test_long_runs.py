"""A run of 2 000 snapshots under each policy ends at the size that the policy implies, plus at most a tenth.

What it implies is computed without gc: a new repository is filled with what the kept snapshots hold, the small objects
of all 2 000, and nothing else. One run has several policies from its beginning. The others share their first 1 900
snapshots, which were taken without any, and get a policy each for the last hundred. ``CIUIC_RETENTION_SHARED=0`` gives
each its policy from the first snapshot on (some minutes).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path

import pytest
from runs import APART, BEGIN, COMPONENTS, TENSOR_BYTES, Run, loss, whole

from ciuic.objects.ids import Kind
from ciuic.objects.snapshot import Snapshot
from ciuic.objects.tree import BlobEntry, ChildEntry, TensorEntry
from ciuic.store.object_reader import read_tree
from ciuic.store.pack_session import PackSession
from ciuic.store.reflog import SLOT
from ciuic.store.refs import WHOLE
from ciuic.store.store import Store

SNAPSHOTS = 2000
SHARED = int(os.environ.get("CIUIC_RETENTION_SHARED", 1900))
TAGGED = (7, 1000)
LAST = SNAPSHOTS - 1
BUDGET = 3 << 20
TENTH = 1.10

STEPS = range(SNAPSHOTS)


def newest_of_each(period: str, count: int) -> set[int]:
    """The last step of each of the last periods."""
    periods = groupby(STEPS, key=lambda step: (BEGIN + step * APART).strftime(period))
    return set([max(steps) for _, steps in periods][-count:])


KEPT: dict[str, Callable[[], Iterable[int]]] = {
    "keep-last=20": lambda: STEPS[-20:],
    "keep-every=100": lambda: {0, *range(99, SNAPSHOTS, 100)},
    "keep-hourly=48": lambda: newest_of_each("%d %H", 48),
    "keep-daily=7": lambda: newest_of_each("%d", 7),
    "keep-best=loss:10": lambda: sorted(STEPS, key=loss)[:10],
    "keep-tagged": lambda: (),
    "drop=optimizer:50": lambda: STEPS,
}
SEVERAL = ("keep-last=20", "keep-every=100", "keep-hourly=48", "keep-daily=7", "keep-best=loss:10", "drop=optimizer:50")


def commit(run: Run, steps: Iterable[int]) -> None:
    for step in steps:
        snapshot = run.commit(step)
        if step in TAGGED:
            run.tag(f"at-{step}", snapshot)


@pytest.fixture(scope="module")
def shared(memory: Path) -> Path:
    """The first 1 900 snapshots, without retention."""
    run = Run(memory / "shared")
    commit(run, range(SHARED))
    return memory / "shared"


@pytest.fixture
def folder(memory: Path) -> Iterator[Path]:
    """Of one run."""
    yield memory / "run"
    shutil.rmtree(memory / "run")


def finished(shared: Path, folder: Path, *policies: str) -> Run:
    """The last hundred snapshots of a copy, under the policies."""
    shutil.copytree(shared, folder, ignore=shutil.ignore_patterns("index"))
    (folder / "index").mkdir()
    run = Run(folder, policies)
    commit(run, range(SHARED, SNAPSHOTS))
    run.retention.finish(600)
    return run


def log(run: Run) -> dict[int, tuple[Snapshot, frozenset[str]]]:
    """Step → snapshot, and what it has given up; the whole log is there."""
    with run.store.shared():
        history = run.retention._reader.history()
        found = {
            each.step or 0: (each, run.store.refs.prunes().get(each.id, frozenset()))
            for each in history.snapshots.values()
        }
    assert sorted(found) == [*STEPS]
    return found


def implied_bytes(run: Run, kept: dict[int, frozenset[str]], folder: Path) -> int:
    """What these components of these snapshots take in a repository that never had anything else."""
    fresh = Store.create(str(folder))
    session = PackSession(fresh.fs, fresh.path, fresh.repository_id, 1 << 40, set())
    with run.store.shared():
        for step, (snapshot, _) in log(run).items():
            id = bytes.fromhex(snapshot.id)
            session.add(
                Kind.SNAPSHOT, id, (raw := bytes(run.store.read(Kind.SNAPSHOT, id))), codec=0, raw_length=len(raw)
            )
            stack = [bytes.fromhex(snapshot.tree[name]) for name in kept.get(step, ())]
            while stack:
                id = stack.pop()
                raw = bytes(run.store.read(Kind.TREE, id))
                session.add(Kind.TREE, id, raw, codec=0, raw_length=len(raw))
                tree = read_tree(run.store, id)
                stack += [child for _, child in tree.modules]
                for _, entry in tree.entries:
                    if isinstance(entry, ChildEntry):
                        stack.append(entry.id)
                    elif isinstance(entry, (TensorEntry, BlobEntry)):
                        for chunk in entry.chunks:
                            raw = bytes(run.store.read(Kind.CHUNK, chunk))
                            session.add(Kind.CHUNK, chunk, raw, codec=0, raw_length=len(raw))
    (pack,) = session.publish()
    return os.stat(os.path.join(fresh.path, "packs", f"{pack}.pack")).st_size


def check_state(run: Run, kept: dict[int, frozenset[str]]) -> None:
    """What the policy keeps comes back bit for bit, and nothing else is there; every prune is one record."""
    records = 0
    for step, (snapshot, gone) in log(run).items():
        left = frozenset[str]() if WHOLE in gone else frozenset(COMPONENTS) - gone
        assert left == kept.get(step, frozenset()), step
        assert snapshot.metrics == {"loss": loss(step)}
        records += len(gone)
    for step in sorted(kept)[:: max(1, len(kept) // 40)]:
        snapshot = log_snapshot(run, step)
        expected = {path: what for path, what in whole(step).items() if path.split("/")[0] in kept[step]}
        assert run.contents(snapshot) == expected
    size = os.stat(os.path.join(run.path, "prunes")).st_size
    assert size == records * SLOT


def log_snapshot(run: Run, step: int) -> Snapshot:
    return next(each for each in run.retention._reader.snapshots.values() if each.step == step)


def expected_components(steps: Iterable[int], policies: Iterable[str]) -> dict[int, frozenset[str]]:
    """Step → components, with what is always kept; the optimizer of the newest fifty of a branch, where it goes."""
    kept = sorted({*steps, *TAGGED, LAST})
    newest = set(kept[-50:])
    dropping = "drop=optimizer:50" in policies
    return {
        step: frozenset(COMPONENTS if not dropping or step in newest or step in TAGGED else ("model",)) for step in kept
    }


@pytest.mark.parametrize("policy", KEPT)
def test_a_policy_ends_at_the_size_that_it_implies(shared: Path, folder: Path, tmp_path: Path, policy: str) -> None:
    """What it keeps is there, what it lets go has been collected, and the log has all 2 000."""
    run = finished(shared, folder, policy)
    kept = expected_components(KEPT[policy](), [policy])
    check_state(run, kept)
    implied = implied_bytes(run, kept, tmp_path / "fresh")
    assert 0.9 * implied < run.pack_bytes() <= TENTH * implied


def test_a_size_budget_is_kept(shared: Path, folder: Path) -> None:
    """The repository takes at most the budget and a tenth, and not much less; the oldest have gone."""
    run = finished(shared, folder, f"size-budget={BUDGET}")
    assert 0.8 * BUDGET < run.pack_bytes() <= TENTH * BUDGET
    kept = sorted(step for step, (_, gone) in log(run).items() if not gone)
    assert kept == sorted({*TAGGED, *range(SNAPSHOTS - (len(kept) - len(TAGGED)), SNAPSHOTS)})
    check_state(run, dict.fromkeys(kept, frozenset(COMPONENTS)))


def test_several_policies_from_the_first_snapshot_on(folder: Path, tmp_path: Path) -> None:
    """Two thousand evaluations, one after each snapshot; what any of them keeps is there."""
    run = Run(folder, SEVERAL)
    commit(run, STEPS)
    run.retention.finish(600)
    kept = expected_components({step for policy in SEVERAL[:-1] for step in KEPT[policy]()}, ())
    found = log(run)
    assert {step for step, (_, gone) in found.items() if WHOLE not in gone} == set(kept)
    newest = sorted(kept)[-50:]
    kept = {
        step: frozenset(COMPONENTS) if step in newest or step in TAGGED else frozenset(COMPONENTS) - found[step][1]
        for step in kept
    }
    assert all(components == {"model"} for step, components in kept.items() if step < newest[0] and step not in TAGGED)
    check_state(run, kept)
    implied = implied_bytes(run, kept, tmp_path / "fresh")
    assert 0.9 * implied < run.pack_bytes() <= TENTH * implied
    assert run.retention.collections < SNAPSHOTS / 4  # never one for each snapshot


def test_the_states_are_what_they_seem() -> None:
    """So that a hundred bytes more or less are no tenth of anything."""
    assert len(whole(3)["model/w"][2]) == TENSOR_BYTES and whole(3) != whole(4)
