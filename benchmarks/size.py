"""How many bytes a training's history takes: ciuic, others that keep one, and the floor of what can be reached.

A small GPT is trained for real. Each of the series below keeps snapshots of it: its own distance in steps, number,
and part of the state. Every snapshot goes to ciuic and, as a safetensors file at always the same path, to the others,
one snapshot after the other; what each has stored by then is read off its folder.
"""

import copy
import json
import shutil
import signal
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from report import publish, surroundings
from safetensors.torch import save_file
from size_floor import floor
from size_peers import NEEDS, OTHER_SETTINGS, PEERS, Version, folder_bytes, missing, version_of
from size_report import Record, Results, report
from size_training import FULL, TINY, Training, tensors_of

import ciuic

FINE_TUNING, TRAINING = 2e-5, 3e-4
ALL = 50


@dataclass(frozen=True)
class Series:
    """Snapshots of one part of a training's state (see size_training.KEEPS), every so many steps."""

    key: str
    name: str
    keeps: str
    every: int
    snapshots: int
    every_setting: bool = False  # the backup programs' other compression, too
    peers: bool = True


@dataclass(frozen=True)
class Run:
    """A training, from where the first steps have brought the model, and the series that it yields."""

    kind: str
    lr: float
    series: tuple[Series, ...]


RUNS = (
    Run("full", TRAINING, (Series("a", "fp32, lr 3e-4, every 10", "fp32", 10, ALL),)),
    Run("full", TRAINING, (Series("b", "fp32, lr 3e-4, every step", "fp32", 1, ALL),)),
    Run(
        "full",
        FINE_TUNING,
        (
            Series("c1", "fp32, lr 2e-5, every step", "fp32", 1, 20),
            Series("d1", "bf16 weights, lr 2e-5, every step", "bf16", 1, ALL),
            Series("e", "bf16 + fp32 masters, lr 2e-5, every step", "bf16 + masters", 1, 20),
            Series("e0", "the same without the bf16 weights", "masters", 1, 20, peers=False),
        ),
    ),
    Run(
        "full",
        FINE_TUNING,
        (
            Series("c10", "fp32, lr 2e-5, every 10", "fp32", 10, 20, every_setting=True),
            Series("c100", "fp32, lr 2e-5, every 100", "fp32", 100, 6),
            Series("d10", "bf16 weights, lr 2e-5, every 10", "bf16", 10, ALL),
        ),
    ),
    Run("half-frozen", FINE_TUNING, (Series("f1", "half frozen, lr 2e-5, every 10", "fp32", 10, 15),)),
    Run("LoRA", TRAINING, (Series("f2", "LoRA, lr 3e-4, every 10", "fp32", 10, 15),)),
)


class History:
    """One series on its way: ciuic's repository and its peers', and what they have stored after each snapshot."""

    def __init__(self, series: Series, folder: Path, systems: Sequence[str], results: Results) -> None:
        self.series = series
        self.folder = folder / series.key
        self.folder.mkdir()
        self.path = str(self.folder / "state.safetensors")
        self.peers: dict[str, Any] = {}
        for number, name in enumerate(systems if series.peers else ()):
            if series.every_setting or name not in OTHER_SETTINGS:
                (self.folder / str(number)).mkdir()
                self.peers[name] = PEERS[name](str(self.folder / str(number)))
        self.repo = ciuic.Repo.open(self.folder / "ciuic", create=True)
        self.before: dict[str, torch.Tensor] | None = None
        self.results = results
        self.record = Record(series.key, series.name)
        results.records.append(self.record)

    def add(self, training: Training, step: int) -> None:
        """One snapshot, in every system's store on return."""
        record, objects = self.record, training.objects(self.series.keeps)
        if self.before is None:
            self.repo.prepare(**objects)
        snapshot = self.repo.commit(**objects, step=step, wait=False).result()
        self.repo.fence()
        for part, kinds in getattr(snapshot, "storage", {}).items():
            for kind, (raw, stored) in kinds.items():
                record.count(part, kind, raw, stored)

        state = tensors_of(objects)
        save_file(state, self.path)
        version = Version(self.path, state, self.before)
        with ThreadPoolExecutor(2) as pool:  # most of them are processes of their own, or leave Python's lock
            found = pool.submit(floor, state, self.before)
            added = {name: pool.submit(peer.add, version) for name, peer in self.peers.items()}
            needed, changed = found.result()
        for name, done in added.items():
            if (error := done.exception()) is not None:
                self.leave_out(name, (str(error).strip() or repr(error)).splitlines()[-1])
        record.add(
            raw=sum(tensor.nbytes for tensor in state.values()),
            floor=needed,
            changed=changed,
            stored={
                "ciuic": folder_bytes(str(self.folder / "ciuic" / "packs")),
                **{name: peer.stored for name, peer in self.peers.items()},
            },
        )
        self.before = {name: tensor.detach().clone() for name, tensor in state.items()}

    def leave_out(self, peer: str, why: str) -> None:
        """A peer that fails has no figure in this series, and the report says why."""
        del self.peers[peer]
        self.record.stored.pop(peer, None)
        self.results.left_out.append(f"{self.series.name}, {peer}: {why}")

    def close(self, training: Training) -> None:
        """See that the last snapshot is what was trained, and give the room back."""
        self.record.folder = folder_bytes(str(self.folder / "ciuic"))
        self.verify(training.objects(self.series.keeps))
        self.repo.close()
        shutil.rmtree(self.folder)

    def verify(self, objects: dict[str, Any]) -> None:
        """Restore the last snapshot into copies that hold nothing of it, and compare every bit."""
        assert self.before is not None
        copies = copy.deepcopy(objects)
        with torch.no_grad():
            for tensor in tensors_of(copies).values():
                tensor.zero_()
        self.repo.restore("HEAD", **copies, rng=False)
        for name, tensor in tensors_of(copies).items():
            if not torch.equal(bits(tensor), bits(self.before[name])):
                raise SystemExit(f"{self.series.name}: {name} did not come back as it was.")


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def main() -> None:
    options = parse()
    if options.load:
        results = Results.from_json(json.loads(options.load.read_text(encoding="utf-8")))
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing stays behind in the folder
        with tempfile.TemporaryDirectory(prefix="ciuic-size-", dir=options.folder) as folder:
            results = measure(options, Path(folder))
    publish("size", report(results), options.write, by="make bench-size")


def parse() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into this page, too")
    parser.add_argument("--folder", help="where all is stored; needs 25 GB at its fullest (default: the temporary one)")
    keys = " ".join(series.key for run in RUNS for series in run.series)
    parser.add_argument("--series", help=f"only these, by key or by its letter, separated by commas: {keys}")
    parser.add_argument("--snapshots", type=int, help="at most so many a series")
    parser.add_argument("--systems", help=f"only these peers, separated by commas: {', '.join(PEERS)}")
    parser.add_argument("--quick", action="store_true", help="a tiny model, three snapshots, to see that it runs")
    parser.add_argument("--save", type=Path, metavar="JSON", help="keep what was measured, as it comes")
    parser.add_argument("--load", type=Path, metavar="JSON", help="measure nothing, report what was saved")
    return parser.parse_args()


def measure(options: Namespace, folder: Path) -> Results:
    torch.set_num_threads(1)  # the same training on every machine
    began = time.monotonic()
    results = Results()
    wanted = [name.strip() for name in options.systems.split(",")] if options.systems is not None else list(PEERS)
    wanted = [name for name in wanted if name]
    results.missing = [name for name in wanted if missing(name)]
    systems = [name for name in wanted if name not in results.missing]
    results.versions = [version_of(name) for name in NEEDS if name in {system.split()[0] for system in systems}]

    def keep(record: Record) -> None:
        results.minutes = (time.monotonic() - began) / 60
        results.surroundings = surroundings()
        print(f"{results.minutes:5.1f} min  {record.progress()}", file=sys.stderr, flush=True)
        if options.save:
            options.save.write_text(json.dumps(results.to_json()), encoding="utf-8")

    runs = list(chosen(options))
    if not runs:
        raise SystemExit("No series has such a key.")
    pretrained = Training(TINY if options.quick else FULL)
    results.parameters = sum(parameter.numel() for parameter in pretrained.model.parameters())
    for run in runs:
        training = pretrained.fork(run.kind, run.lr)
        training.step()  # so that an optimizer of its own has its state
        with opened(run, folder, systems, results) as histories:
            train(training, histories, keep)
    return results


@contextmanager
def opened(run: Run, folder: Path, systems: Sequence[str], results: Results) -> Iterator[list[History]]:
    with ExitStack() as stack:
        histories = [History(series, folder, systems, results) for series in run.series]
        for history in histories:
            stack.callback(history.repo.close)
        yield histories


def train(training: Training, histories: list[History], keep: Callable[[Record], None]) -> None:
    """Until every series has its snapshots, the first of each before the first step."""
    step, open_ones = 0, list(histories)
    while open_ones:
        for history in list(open_ones):
            if step % history.series.every == 0:
                history.add(training, step)
                if history.record.snapshots == history.series.snapshots:
                    history.close(training)
                    open_ones.remove(history)
                keep(history.record)
        if open_ones:
            training.step()
            step += 1


def chosen(options: Namespace) -> Iterator[Run]:
    most = options.snapshots or (3 if options.quick else ALL)
    keys = options.series.split(",") if options.series else [one.key for run in RUNS for one in run.series]
    for run in RUNS:
        series = tuple(
            replace(one, snapshots=min(one.snapshots, most))
            for one in run.series
            if one.key in keys or one.key[0] in keys
        )
        if series:
            yield replace(run, series=series)


if __name__ == "__main__":
    main()
