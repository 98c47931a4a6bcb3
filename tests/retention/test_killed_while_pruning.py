"""Killed, or without power, after any file effect of pruning and collecting: what the policy keeps is not lost.

The life that is recorded: a policy comes to eight snapshots, six prunes in one write; they are collected, and what
rested on them is encoded anew; another snapshot is taken, one prune is appended; it is collected. The disk is rebuilt
after each effect of it.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runs import Run, drifting

from ciuic.retention import engine
from ciuic.retention.policies import KeepLast
from ciuic.store.gc import GcReport, collect
from ciuic.store.object_reader import read_snapshot
from ciuic.testing.invariants import Promised, check_invariants, contents, refs_of
from ciuic.testing.power_cut import Disk
from ciuic.testing.recording import EffectLog, read_log, recording

NBYTES = 600
EARLIER = 8


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Nobody reads a hundred times that the next commit goes on on a new branch."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


class Life:
    """What was recorded, and what was owed after so many effects."""

    def __init__(self, folder: Path) -> None:
        (folder / "disk").mkdir(parents=True)
        log = EffectLog(folder / "log", folder / "disk", beside=[])
        marks: list[tuple[int, Promised]] = []

        def owes(run: Run, *steps: int) -> None:
            log.note("owes")
            refs = {name: frozenset([value]) for name, value in refs_of(run.store).items()}
            kept = {ids[step]: contents(drifting(step, NBYTES)) for step in steps}
            freed = {id: contents(drifting(step, NBYTES)) for step, id in ids.items() if step not in steps}
            marks.append((0, Promised(kept, refs, freed)))

        with recording(log):
            run = Run(folder / "disk" / "repo", nbytes=NBYTES, state=drifting)
            ids = {step: run.commit(step).id for step in range(EARLIER)}
            owes(run, *ids)
            run.retention = engine.Retention(run.store, [KeepLast(2)])
            with run.store.shared():
                newest = read_snapshot(run.store, bytes.fromhex(ids[EARLIER - 1]))
            run.retention.after(newest, "main")
            run.retention.finish(600)
            owes(run, 6, 7)
            ids[8] = run.commit(8).id
            run.retention.finish(600)
            owes(run, 7, 8)
        log.close()
        effects = []
        at = iter(marks)
        self.promises: list[tuple[int, Promised]] = []
        for effect in read_log(folder / "log"):
            if effect.name == "note":
                self.promises.append((len(effects), next(at)[1]))
            elif "repo/index/" not in effect.path + effect.target and "/tmp/stamp-" not in effect.path:
                effects.append(effect)
        self.disk = Disk(effects)

    def owed(self, prefix: int) -> Promised:
        """While something is under way: what is owed before and after it."""
        before = [promised for position, promised in self.promises if position <= prefix]
        after = [promised for position, promised in self.promises if position >= prefix]
        return before[-1].until(after[0])


def test_what_the_policy_keeps_survives_a_kill_anywhere_in_pruning(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each image opens, is sound, has all that is owed bit for bit, takes the next snapshot, and lets gc go on."""
    reports: list[GcReport] = []

    def collected(*arguments: Any, **options: Any) -> GcReport:
        reports.append(collect(*arguments, **options))
        return reports[-1]

    monkeypatch.setattr(engine, "collect", collected)
    life = Life(memory / "life")
    assert len(reports) >= 2 and reports[0].rebased and reports[0].repacked_packs
    begin, end = life.promises[0][0], life.promises[-1][0]
    names = {effect.name for effect in life.disk.effects[begin:end]}
    assert {"rename", "unlink", "write_at", "sync", "sync_folder"} <= names
    seen: set[str] = set()
    count = 0
    for prefix in range(begin, end + 1):
        for image in life.disk.images(prefix, recent=2):
            if image.digest not in seen:
                seen.add(image.digest)
                folder = memory / "image"
                folder.mkdir()
                image.write(folder)
                check_invariants(folder / "repo", life.owed(prefix))
                shutil.rmtree(folder)
                count += 1
    assert count > 100
