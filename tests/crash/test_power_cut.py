"""The power fails after every effect of a repository's life, and the disk has lost what it may lose. P1, P2, P3, P6.

With ``CRASH_IMAGES=all`` every image meets every state of the index; without it some of the images meet one each.
"""

from __future__ import annotations

import itertools
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from histories import REPOSITORY, History
from index_states import State, states

from ciuic.errors import NotARepository
from ciuic.store.store import Store
from ciuic.testing.invariants import Broken, Promised, check_invariants
from ciuic.testing.power_cut import NEVER, Image

ALL = os.environ.get("CRASH_IMAGES") == "all"
RECENT = NEVER if ALL else 4


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Nobody reads a thousand times that the next commit goes on on a new branch."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def survives(image: Image, promised: Promised | None, folder: Path, index: State | None = None) -> None:
    """The repository on this disk keeps every invariant; where there need not be one, it can be made."""
    folder.mkdir()
    image.write(folder)
    repository = folder / REPOSITORY
    if index is not None and (repository / "index").is_dir():
        index(repository)
    if promised is None:
        promised = Promised()
        try:
            Store(str(repository))
        except NotARepository:
            Store.create(str(repository))
    check_invariants(repository, promised)
    shutil.rmtree(folder)


def check_all(history: History, foreign: History, memory: Path, broken: Path) -> Counter[str]:
    """Each image, with its states of the index; how many there were, by loss and by state.

    ``broken``: where the first that does not keep every invariant is left for a person to look at, as it was.
    """
    counts: Counter[str] = Counter()
    turn = itertools.count()
    for image in history.disk.all_images(RECENT):
        choices = sorted(states(history, image.prefix, foreign.index[-1]).items())
        for name, index in choices if ALL else [choices[next(turn) % len(choices)]]:
            try:
                survives(image, history.promised(image.prefix), memory / "image", index)
            except Exception as error:
                shutil.rmtree(memory / "image")
                image.write(broken)
                what = f"{history.doing(image.prefix)}, after {image.prefix} effects, {image.loss}, index {name}"
                raise Broken(f"{what}: {error} The image is in {broken}.") from error
            counts[f"index {name}"] += 1
        counts[image.loss] += 1
        counts["images"] += 1
    return counts


def test_the_lives_have_what_they_are_to_show(trained: History, plain: History) -> None:
    """Something is collected, re-based and repacked; the writer process is seen; each index is stamped now and then."""
    assert trained.gc[0].freed_packs and trained.gc[0].repacked_packs and trained.gc[0].rebased
    assert trained.gc[1].repacked_packs and plain.gc[0].freed_packs and plain.gc[0].repacked_packs
    for history, least in ((trained, 150), (plain, 100)):
        assert len(history.disk.effects) > least
        assert len({file.data for file in history.index}) > 5
    started = next(position for position, name in trained.names if name == "a commit by the writer process")
    ended = next(position for position, name in trained.names if name == "branch")
    writer = {effect.path.split("-")[1] for effect in trained.disk.effects[started:ended] if "tmp/pack-" in effect.path}
    assert writer and str(os.getpid()) not in writer


def test_every_image_of_a_training(trained: History, plain: History, memory: Path, tmp_path: Path) -> None:
    """Chains of deltas, the writer process, branches, tags, resets, prunes, gc, repack and flatten."""
    counts = check_all(trained, plain, memory, tmp_path)
    print(dict(counts))
    assert counts["images"] >= 600


def test_every_image_of_plain_states(trained: History, plain: History, memory: Path, tmp_path: Path) -> None:
    """Large records, packs that are rewritten, logs that are shortened and removed."""
    counts = check_all(plain, trained, memory, tmp_path)
    print(dict(counts))
    assert counts["images"] >= 400
