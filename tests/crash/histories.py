"""Lives of a small repository, recorded effect by effect, with what it owed to whom at each of them."""

from __future__ import annotations

import bisect
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
import recording_writer

from ciuic.commit.pipeline import Details
from ciuic.history import branches
from ciuic.history.following import Following
from ciuic.store.gc import GcReport, collect
from ciuic.store.refs import HEADS, TAGS
from ciuic.store.store import Store
from ciuic.testing.invariants import Contents, Promised, bytes_state, commit, contents, refs_of
from ciuic.testing.power_cut import Disk
from ciuic.testing.recording import Effect, EffectLog, read_log, recording
from ciuic.writer import child

REPOSITORY = "repo"
INDEX = f"{REPOSITORY}/index/data.mdb"
NOW = timedelta(0)


@dataclass
class IndexFile:
    """What LMDB's file held from the ``prefix``-th effect on, and the generation of which its stamp spoke then."""

    prefix: int
    data: bytes
    generation: int


@dataclass
class History:
    """``disk``: every effect but those on the index. ``index``: its states, in order; ``gc``: what each gc reported."""

    disk: Disk
    promises: list[tuple[int, Promised]]
    names: list[tuple[int, str]]
    index: list[IndexFile]
    gc: list[GcReport]

    def promised(self, prefix: int) -> Promised | None:
        """What is owed after so many effects; None before the repository was made."""
        at = bisect.bisect_right([position for position, _ in self.promises], prefix) - 1
        if at < 0:
            return None
        position, before = self.promises[at]
        if position == prefix or at + 1 == len(self.promises):
            return before
        return before.until(self.promises[at + 1][1])

    def doing(self, prefix: int) -> str:
        """What was under way after so many effects."""
        return self.names[max(0, bisect.bisect_left([position for position, _ in self.names], prefix) - 1)][1]

    def index_files(self, prefix: int) -> list[IndexFile]:
        """What the index had been until then, oldest first."""
        return self.index[: bisect.bisect_right([each.prefix for each in self.index], prefix)]


class Life:
    """Writes down what happens to a repository below ``folder``, and what it owes after each thing that was done."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "disk"
        self.root.mkdir(parents=True)
        self.path = str(self.root / REPOSITORY)
        self.log = EffectLog(folder / "log", self.root, beside=[INDEX])
        self.writer = recording_writer.make(folder / "writer.py", self.log.path, str(self.root))
        self.saved: dict[str, Contents] = {}
        self.freed: dict[str, Contents] = {}
        self.gc: list[GcReport] = []
        self._promises: list[Promised] = []

    @contextmanager
    def doing(self, name: str) -> Iterator[None]:
        """One thing that is done; at its end it is acknowledged."""
        self.log.note(f"does {name}")
        yield
        refs = {name: frozenset([value]) for name, value in refs_of(Store(self.path)).items()}
        self._promises.append(Promised(dict(self.saved), refs, dict(self.freed)))
        self.log.note("owes")

    def frees(self, *snapshots: str) -> None:
        """Nobody is owed these any more."""
        for each in snapshots:
            self.freed[each] = self.saved.pop(each)

    def history(self, *, keep_stamps: bool = False) -> History:
        """What was recorded; with ``keep_stamps`` the disk has the index's stamp, too."""
        self.log.close()
        owed = iter(self._promises)
        effects: list[Effect] = []
        promises: list[tuple[int, Promised]] = []
        names: list[tuple[int, str]] = []
        index: list[IndexFile] = []
        stamps: dict[str, bytes] = {}
        generation = 0
        for effect in read_log(self.log.path):
            if effect.name == "note":
                if effect.path == "owes":
                    promises.append((len(effects), next(owed)))
                else:
                    names.append((len(effects), effect.path.removeprefix("does ")))
            elif effect.name == "seen":
                index.append(IndexFile(len(effects), effect.data, generation))
            elif f"{REPOSITORY}/index/" in effect.path + effect.target or "/tmp/stamp-" in effect.path:
                if effect.name == "write":
                    stamps[effect.path] = effect.data
                elif effect.name == "rename":
                    generation = int(stamps[effect.path].split()[5])
                    index.append(IndexFile(len(effects), index[-1].data, generation))
                if keep_stamps and not effect.path.endswith(".mdb"):  # those LMDB makes, unrecorded
                    effects.append(effect)
            else:
                effects.append(effect)
        return History(Disk(effects), promises, names, index, self.gc)


def trained(life: Life) -> None:
    """A training through ``Repo``: chains of deltas, the writer process, branches, and all that frees and rewrites."""
    import torch

    import ciuic
    from ciuic.state.capture import capture_state

    torch.manual_seed(0)
    model = torch.nn.Linear(32, 32, bias=False)
    optimizer = torch.optim.AdamW(model.parameters())

    def save(name: str, *, wait: bool = True) -> str:
        inputs = torch.randn(8, 32)
        optimizer.zero_grad()
        (model(inputs) - inputs.flip(1)).square().mean().backward()
        optimizer.step()
        components = capture_state(
            model=model, optimizer=optimizer, scheduler=None, scaler=None, extra={"name": name}, rng=False
        ).components
        snapshot = repo.commit(model, optimizer, extra={"name": name}, rng=False, wait=wait)
        id = snapshot.id if wait else snapshot.result(60).id
        life.saved[id] = contents(components)
        return id

    with life.doing("init"):
        repo = ciuic.Repo.init(life.path, chunk_size=4096)
    with life.doing("the first commit"):
        a = save("a")
    with life.doing("a commit on it"):
        b = save("b")
    with life.doing("a commit by the writer process"):
        c = save("c", wait=False)
    repo.close()
    with life.doing("branch"):
        repo.branch("side", b)
    with life.doing("tag"):
        repo.tag("v1", c)
    with life.doing("checkout"):
        repo.switch("side")
    with life.doing("a commit to another branch"):
        d = save("d")
    with life.doing("checkout back"):
        repo.switch("main")
    with life.doing("reset"):
        repo.reset(b)
    with life.doing("delete a tag"):
        repo.delete_tag("v1")
    with life.doing("prune"):
        life.frees(a)
        repo.prune(a)
    with life.doing("gc that collects, re-bases and repacks"):
        life.frees(c)
        life.gc.append(repo.gc(expire=NOW))
    with life.doing("a commit after gc"):
        e = save("e")
    with life.doing("flatten"):
        repo.repack(flatten=e)
    with life.doing("repack"):
        life.gc.append(repo.repack().gc)
    with life.doing("checkout of a snapshot"):
        repo.switch(b)
    with life.doing("a commit where no branch ends"):
        save("f")
    with life.doing("prune a component"):
        repo.prune(d, "optimizer")
        life.saved[d] = {path: what for path, what in life.saved[d].items() if not path.startswith("optimizer")}
    with life.doing("the last gc"):
        life.gc.append(repo.gc(expire=NOW))


def plain(life: Life) -> None:
    """Bytes straight into the store: records of a page and more, several packs, logs that are rewritten and removed."""
    numbers = random.Random(0)

    def save(size: int, shared: bytes = b"") -> str:
        components = bytes_state({"own": numbers.randbytes(size), "shared": shared, "size": size})
        id = commit(store, following, components, Details(step=size))
        life.saved[id] = contents(components)
        return id

    def move(name: str, value: str, expected: str = "-") -> None:
        with store.shared():
            store.move_ref(name, value, "moved", expected=expected)

    shared = numbers.randbytes(6000)
    with life.doing("init"):
        store = Store.create(life.path, chunk_size=1 << 16)
    following = Following(store)
    with life.doing("the first commit"):
        first = save(70_000)
    with life.doing("branch"):
        move(f"{HEADS}gone", first)
    with life.doing("checkout"), store.shared():
        branches.move_head(store, "gone", first, "gone")
        following.head_moved()
    with life.doing("a commit to be forgotten, of which a part stays"):
        gone = save(40_000, shared)
    with life.doing("checkout back"), store.shared():
        branches.move_head(store, "main", first, "main")
        following.head_moved()
    with life.doing("a commit that shares a chunk"):
        second = save(2000, shared)
    with life.doing("a commit of nothing new"):
        third = save(2000, shared)
    with life.doing("tag"):
        move(f"{TAGS}v1", second)
    with life.doing("reset"):
        move(f"{HEADS}main", second, third)
    with life.doing("delete a branch"), store.shared():
        branches.delete(store, HEADS, "gone")
    with life.doing("gc that removes a log and repacks"):
        life.frees(gone, third)
        life.gc.append(collect(store, expire=NOW))
    with life.doing("the branch made again"):
        move(f"{HEADS}gone", second)
    following = Following(store)
    with life.doing("a commit after gc"):
        save(3000, shared)
    with life.doing("gc with nothing to do"):
        life.gc.append(collect(store))


def record(lived: Callable[[Life], None], folder: Path) -> History:
    """Live one of the lives above in a folder."""
    life = Life(folder)
    with pytest.MonkeyPatch.context() as patch, recording(life.log):
        patch.setattr(child, "PROGRAM", life.writer)
        lived(life)
    return life.history()
