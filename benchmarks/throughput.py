"""How fast a durable commit and a verified restore are: ciuic beside its peers, on tmpfs and on a disk, in one run.

First a small GPT is trained, with a commit every few steps: that is the history to restore from, and its last two
states are what is saved. Then the systems take turns, each in a process of its own, in an order that moves on by one
each round: first all rounds of saving, then all rounds of restoring.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from processes import filesystem, in_child, memory_available, rotated
from report import publish, surroundings
from throughput_measures import (
    DEPTH,
    DISK,
    MEMORY,
    Figure,
    Goal,
    History,
    copy_history,
    make_history,
    measure_floors,
    measure_restores,
    measure_saves,
)
from throughput_report import Results, report
from throughput_state import FULL, TINY, Shape
from throughput_systems import LOADS, REFERENCE, SYSTEMS

ROUNDS = 7
EVERY = 10
FLOORS = "floors"
STATES_NEEDED = 14  # times the state, in memory: the history and what a process holds


def main() -> None:
    options = parse()
    if options.load:
        results = Results.from_json(json.loads(options.load.read_text(encoding="utf-8")))
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing stays behind in the folders
        with folder_in(options.folder_memory) as memory, folder_in(options.folder_disk) as disk:
            results = Run(options, memory, disk).all()
    publish("throughput", report(results), options.write, by="make bench-throughput")


def parse() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into this page, too")
    parser.add_argument("--folder-memory", default="/dev/shm", help="on a file system in memory (default: %(default)s)")
    parser.add_argument("--folder-disk", default=".", help="on a disk (default: the current folder)")
    parser.add_argument("--rounds", type=int, help=f"how often each is measured (default: {ROUNDS})")
    parser.add_argument("--every", type=int, default=EVERY, help="steps between snapshots (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=20, help="no new round after so many, from the third on")
    parser.add_argument("--systems", help=f"only these and torch.save, separated by semicolons: {';'.join(SYSTEMS)}")
    parser.add_argument("--quick", action="store_true", help="a tiny state, to see that it runs")
    parser.add_argument("--save", type=Path, metavar="JSON", help="keep every measured time, as it comes")
    parser.add_argument("--load", type=Path, metavar="JSON", help="measure nothing, report what was saved")
    return parser.parse_args()


@contextlib.contextmanager
def folder_in(parent: str) -> Iterator[str]:
    folder = tempfile.mkdtemp(prefix=".ciuic-throughput-", dir=parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Run:
    """One run of the benchmark: what it measured so far, and how."""

    def __init__(self, options: Namespace, memory: str, disk: str) -> None:
        self.memory = memory
        self.disk = disk
        self.save: Path | None = options.save
        self.shape: Shape = TINY if options.quick else FULL
        self.every = 2 if options.quick else options.every
        self.snapshots = 3 if options.quick else DEPTH + 1
        self.rounds = options.rounds or (1 if options.quick else ROUNDS)
        self.limit: float = options.minutes
        asked = options.systems.split(";") if options.systems else list(SYSTEMS)
        self.systems = [name for name in SYSTEMS if name in asked or name == REFERENCE["save"]]
        self.began = time.monotonic()
        media = {MEMORY: filesystem(memory), DISK: filesystem(disk)}
        self.results = Results(media, len(os.sched_getaffinity(0)), self.shape.name)
        needed = STATES_NEEDED * (1 << 30)
        if self.shape is FULL and memory_available() < needed:
            raise SystemExit(f"{needed >> 30} GiB of memory are needed; {memory_available() >> 30} GiB are free.")

    @property
    def minutes(self) -> float:
        return (time.monotonic() - self.began) / 60

    def all(self) -> Results:
        states = [os.path.join(self.memory, name) for name in ("before", "after")]
        source = os.path.join(self.disk, "history")
        os.mkdir(source)
        arguments = (source, states, self.shape, self.every, self.snapshots)
        history: History = in_child(make_history, self.memory, *arguments)
        self.results.history = history
        self.say("trained")
        saving = (*self.systems, FLOORS)
        for number in range(self.rounds):
            if self.late(number, share=0.55):
                break
            for name in rotated(saving, number):
                if name == FLOORS:
                    self.measure(name, number, measure_floors, self.memory, self.disk, states, self.shape, number)
                else:
                    self.measure(name, number, measure_saves, self.memory, self.disk, states, self.shape, name, number)
        for path in states:
            os.unlink(path)

        folders = {MEMORY: os.path.join(self.memory, "history"), DISK: source}
        in_child(copy_history, self.memory, source, folders[MEMORY])
        goals = self.goals(history)
        for number in range(self.rounds):
            if self.late(number, share=1):
                break
            for goal in rotated(goals, number):
                self.measure(goal.label, number, measure_restores, self.memory, folders, self.shape, goal, number)
        self.keep()
        return self.results

    def goals(self, history: History) -> list[Goal]:
        """Of ciuic the first snapshot and the deepest."""
        last = history.snapshots[-1]
        peers = [name for name in self.systems if not name.startswith("ciuic")]
        goals = [Goal(LOADS.get(name, name), name, "", last.digest) for name in peers]
        if len(peers) < len(self.systems):
            chosen = {self.results.label(made): made for made in (history.snapshots[0], history.deepest)}
            goals += [Goal(label, "ciuic", made.id, made.digest) for label, made in chosen.items()]
        return goals

    def late(self, number: int, share: float) -> bool:
        return number >= 3 and self.minutes > share * self.limit

    def measure(self, what: str, number: int, function: Any, folder: str, *arguments: Any) -> None:
        began = time.monotonic()
        try:
            figures: list[Figure] = in_child(function, folder, *arguments)
        except RuntimeError as error:
            why = str(error).strip().splitlines()[-1]
            self.results.left_out.append(f"{what}, round {number + 1}: {why}")
            self.say(f"{what} left out: {why}")
            return
        self.results.figures.extend(figures)
        self.say(f"round {number + 1}: {figures[0].what}, {what} ({time.monotonic() - began:.0f} s)")
        self.keep()

    def say(self, what: str) -> None:
        print(f"{self.minutes:5.1f} min  {what}", file=sys.stderr, flush=True)

    def keep(self) -> None:
        """A run that is cut short can be reported with ``--load``."""
        self.results.minutes = self.minutes
        self.results.surroundings = surroundings()
        if self.save is not None:
            self.save.write_text(json.dumps(self.results.to_json()), encoding="utf-8")


if __name__ == "__main__":
    main()
