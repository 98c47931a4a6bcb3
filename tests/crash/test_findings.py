"""What the images have found, each with its story."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

from histories import REPOSITORY, History
from index_states import missing, vouched

from ciuic.testing.invariants import check_invariants
from ciuic.testing.power_cut import KEPT


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
            for index in (missing, vouched(trained.index_files(sweep[0])[-1])):
                folder = memory / "swept"
                folder.mkdir()
                replace(before, files={path: what for path, what in before.files.items() if path not in gone}).write(
                    folder
                )
                index(folder / REPOSITORY)
                check_invariants(folder / REPOSITORY, promised)
                shutil.rmtree(folder)
