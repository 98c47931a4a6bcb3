"""The power fails after every effect of a repository's life, and the disk has lost what it may lose. P1, P2, P3, P6.

With every test run, each image meets one state of the index. With ``CRASH_RECENT=N`` each meets every state, and there
are more images: of the last N unsynced changes, or with ``all`` of any however old, one is lost by itself.
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

ASKED = os.environ.get("CRASH_RECENT")
RECENT = 4 if ASKED is None else NEVER if ASKED == "all" else int(ASKED)
SHARES = 1 if ASKED is None else 32
"""Into so many tests each life is cut, for as many processes as there are."""


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


def images(history: History, share: int) -> Iterator[Image]:
    """Those after one share of the effects, each content once."""
    prefixes = range(len(history.disk.effects) + 1)
    start, stop = (len(prefixes) * each // SHARES for each in (share, share + 1))
    return history.disk.all_images(RECENT, prefixes[start:stop])


def check_all(history: History, foreign: History, memory: Path, broken: Path, share: int) -> Counter[str]:
    """Each image, with its states of the index; how many there were, by loss and by state.

    ``broken``: where the first that does not keep every invariant is left for a person to look at, as it was.
    """
    counts: Counter[str] = Counter()
    turn = itertools.count()
    for image in images(history, share):
        choices = sorted(states(history, image.prefix, foreign.index[-1]).items())
        for name, index in choices if ASKED else [choices[next(turn) % len(choices)]]:
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


@pytest.mark.parametrize("share", range(SHARES))
def test_every_image_of_a_training(trained: History, plain: History, memory: Path, tmp_path: Path, share: int) -> None:
    """Chains of deltas, the writer process, branches, tags, resets, prunes, gc, repack and flatten."""
    counts = check_all(trained, plain, memory, tmp_path, share)
    print(dict(counts))
    assert counts["images"] >= (1 if ASKED else 600)


@pytest.mark.parametrize("share", range(SHARES))
def test_every_image_of_plain_states(
    trained: History, plain: History, memory: Path, tmp_path: Path, share: int
) -> None:
    """Large records, packs that are rewritten, logs that are shortened and removed."""
    counts = check_all(plain, trained, memory, tmp_path, share)
    print(dict(counts))
    assert counts["images"] >= (1 if ASKED else 400)
