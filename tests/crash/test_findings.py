"""What the images have found, each with its story."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from histories import NOW, REPOSITORY, History, Life
from index_states import missing, vouched

from ciuic.commit.pipeline import Details
from ciuic.history import branches
from ciuic.history.following import Following
from ciuic.store import index
from ciuic.store.fs import LOCAL
from ciuic.store.gc import collect
from ciuic.store.locks import hold
from ciuic.store.refs import HEADS
from ciuic.store.store import Store
from ciuic.testing.invariants import bytes_state, check_invariants, commit
from ciuic.testing.power_cut import KEPT
from ciuic.testing.recording import recording


def test_a_sweep_that_was_cut_short_does_not_stop_the_next_one(trained: History, memory: Path) -> None:
    """gc encodes chunks anew, and then removes the packs with their old copies. Killed between two of these removals it
    left an old copy, a delta, whose base was gone. Reading found the new copy; the next gc took the old one, since the
    index names the copy that it met last among equally deep ones, said that a base was in no pack, and never ran again.
    """
    effects = trained.disk.effects
    gc = [number for number, _ in enumerate(effects) if trained.doing(number + 1).startswith("gc that collects")]
    sweep = [number for number in gc if effects[number].name == "rename" and "/trash/" in effects[number].target]
    before = next(image for image in trained.disk.images(sweep[0]) if image.loss == KEPT)
    dead = [effects[number].path for number in sweep]
    promised = trained.promised(sweep[0])
    assert promised is not None and len(dead) > 2
    for count in range(1, len(dead)):
        for gone in itertools.combinations(dead, count):
            for state in (missing, vouched(trained.index_files(sweep[0])[-1])):
                folder = memory / "swept"
                folder.mkdir()
                replace(before, files={path: what for path, what in before.files.items() if path not in gone}).write(
                    folder
                )
                state(folder / REPOSITORY)
                check_invariants(folder / REPOSITORY, promised)
                shutil.rmtree(folder)


def test_an_index_that_could_not_forget_a_log_stays_doubtful(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before gc removes a log, the index forgets it, or else, when a stopped process holds its lock, loses its stamp.
    The removal of the stamp was not synced: after a power cut it was back, the index fitted it and remembered the log,
    and fsck and gc spoke of a log that had been lost.
    """
    monkeypatch.setattr(index, "LOCK_TIMEOUT_S", 0.05)
    life = Life(memory / "forgotten")
    with recording(life.log):
        with life.doing("a branch that is deleted"):
            store = Store.create(life.path)
            commit(store, Following(store), bytes_state({"w": bytes(range(200))}), Details())
            with store.shared():
                tip = str(store.refs.value(f"{HEADS}main"))
                branches.create(store, HEADS, "gone", tip, "main")
                branches.delete(store, HEADS, "gone")
        with life.doing("gc"), hold(LOCAL, store.join("index", "lock"), exclusive=True, timeout_s=1.0):
            collect(store, expire=NOW)
    history = life.history(keep_stamps=True)
    stamped = 0
    for image in history.disk.all_images():
        promised = history.promised(image.prefix)
        if promised is None or f"{REPOSITORY}/index/stamp" not in image.files:
            continue
        folder = memory / "image"
        folder.mkdir()
        image.write(folder)
        vouched(history.index_files(image.prefix)[-1])(folder / REPOSITORY)
        check_invariants(folder / REPOSITORY, promised)
        shutil.rmtree(folder)
        stamped += 1
    assert stamped > 20
