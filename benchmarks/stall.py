"""What a snapshot costs a training: the time of every step, with ciuic and with its peers.

Two loops (see stall_loops.py) over AdamW states of 0.1, 1 and 4 GB, a snapshot every 1, 3 and 10 steps. Each system
runs in a process of its own, and the systems take turns in an order that moves on by one each round, so that a slow
spell of the machine hits all of them. The two cases that the aims are about have the most rounds.
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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from processes import filesystem, in_child, memory_available, rotated
from report import publish, surroundings
from stall_loops import LOOPS, Case, Record, Size, measure, measure_alone, measure_calls
from stall_report import CPU_BOUND, HEADLINE_EVERY, Results, report
from stall_systems import BESIDE, BLOCKING, LOW_PRIORITY

PEERS = ("torch.save", "safetensors")
SMALL = Size("0.1 GB", width=1024, layers=8, batch=64, device_seconds=0.06)
MIDDLE = Size("1 GB", width=2048, layers=20, batch=64, device_seconds=0.6)
LARGE = Size("4 GB", width=1414, layers=167, batch=16, device_seconds=1.2, slots=1)
TINY = Size("12 MB", width=512, layers=4, batch=8, device_seconds=0.02)

ROUNDS = 7
SNAPSHOTS = {HEADLINE_EVERY: 3}
REST = ((SMALL, {1: 10, 3: 5, 10: 2}), (MIDDLE, {1: 4, 10: 1}), (LARGE, {3: 1, 1: 2, 10: 1}))
WITHOUT = {SMALL: 20, MIDDLE: 8, LARGE: 4, TINY: 4}  # steps of the rest's loops without snapshots
REST_ROUNDS = 3
CALLS = {2: 10}  # of a large state: calls, with so many steps from one to the end of its case


def main() -> None:
    options = parse()
    if options.load:
        results = Results.from_json(json.loads(options.load.read_text(encoding="utf-8")))
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing stays behind in the folder
        with folder_for(options) as folder:
            results = run(options, folder)
    if options.plot:
        from stall_plot import draw

        draw(results, options.plot)
    text = report(results)
    if options.plot and options.write:
        text = f"![The time of each step, system by system]({relative(options.plot, options.write)})\n\n{text}"
    publish("stall", text, options.write, by="make bench-stall")


def relative(path: Path, page: Path) -> str:
    return Path(os.path.relpath(path, page.parent)).as_posix()


def parse() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into this page, too")
    parser.add_argument("--plot", type=Path, metavar="SVG", help="draw the step times of the two cases with aims")
    parser.add_argument("--folder", help="where snapshots are written (default: /dev/shm if there is room)")
    parser.add_argument("--device", default="cpu", help="where the state lies: cpu, cuda (default: %(default)s)")
    parser.add_argument("--rounds", type=int, help=f"of the cases with aims (default: {ROUNDS})")
    parser.add_argument("--minutes", type=float, default=25, help="no new round of the others after so many")
    parser.add_argument("--systems", help="only these, separated by commas: ciuic,torch.save,safetensors")
    parser.add_argument("--headline", action="store_true", help="only what the aims are about (about 20 minutes)")
    parser.add_argument("--quick", action="store_true", help="tiny states, to see that it runs")
    parser.add_argument("--save", type=Path, metavar="JSON", help="keep every measured time, as it comes")
    parser.add_argument("--load", type=Path, metavar="JSON", help="measure nothing, report what was saved")
    return parser.parse_args()


@contextlib.contextmanager
def folder_for(options: Namespace) -> Iterator[str]:
    parent = options.folder
    if parent is None:
        memory = "/dev/shm"
        needed = 16 * MIDDLE.nbytes
        roomy = os.path.isdir(memory) and (options.quick or shutil.disk_usage(memory).free > needed)
        parent = memory if roomy else tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix="ciuic-stall-", dir=parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(options: Namespace, folder: str) -> Results:
    bench = Bench(options.device, folder, options.save)
    headline = TINY if options.quick else MIDDLE
    rounds = options.rounds or (1 if options.quick else ROUNDS)
    snapshots = {HEADLINE_EVERY: 2} if options.quick else SNAPSHOTS
    results = bench.results
    results.headline = headline.name
    results.alone = in_child(measure_alone, folder, headline, 3)

    if options.quick or options.systems:
        blocking, beside = BLOCKING[0], BESIDE[0]
    else:  # which of DCP's ways is its best
        for name in ("none", *BLOCKING, *BESIDE):
            bench.measure(LOOPS[0], headline, {HEADLINE_EVERY: 2}, name, 0, results.trial)
        blocking, beside = (min(names, key=results.trial_added) for names in (BLOCKING, BESIDE))
    systems = chosen(options, ("none", "ciuic", *PEERS, blocking, beside))
    for number in range(rounds):
        for loop in LOOPS:
            lower = [LOW_PRIORITY] if loop == CPU_BOUND and "ciuic" in systems else []
            for name in rotated([*systems, *lower], number):
                bench.measure(loop, headline, snapshots, name, number, results.records)

    if "ciuic" in systems:
        large, calls = (TINY, {2: 3}) if options.quick else (LARGE, CALLS)
        bench.measure(LOOPS[0], large, calls, "ciuic", 0, results.calls, measure_calls)

    rest = ((TINY, {1: 3}),) if options.quick else () if options.headline else REST
    dcp = blocking if options.quick else min(blocking, beside, key=results.trial_added)
    systems = chosen(options, ("none", "ciuic", *PEERS, dcp))
    for number in range(1 if options.quick else REST_ROUNDS):
        for size, counts in rest:
            for loop in LOOPS[:1] if options.quick else LOOPS:
                if number and bench.minutes > options.minutes:
                    continue
                for name in rotated(systems, number):
                    distances = {0: WITHOUT[size]} if name == "none" else counts
                    bench.measure(loop, size, distances, name, number, results.records)
    results.minutes = bench.minutes
    results.surroundings = surroundings()
    bench.keep()
    return results


def chosen(options: Namespace, names: Sequence[str]) -> list[str]:
    return [name for name in names if name == "none" or not options.systems or name in options.systems.split(",")]


class Bench:
    """Measures one system after the other, and says so."""

    def __init__(self, device: str, folder: str, save: Path | None) -> None:
        self.device = device
        self.folder = folder
        self.save = save
        self.began = time.monotonic()
        self.results = Results(where=filesystem(folder), device=device, cores=len(os.sched_getaffinity(0)))

    @property
    def minutes(self) -> float:
        return (time.monotonic() - self.began) / 60

    def measure(
        self,
        loop: str,
        size: Size,
        snapshots: dict[int, int],
        name: str,
        number: int,
        into: list[Record],
        function: Callable[[str, Case], list[Record]] = measure,
    ) -> None:
        case = Case(loop, size, snapshots, name, number, self.device, together=function is measure)
        what = f"{loop}, {size.name}, {name}"
        free = memory_available()
        if case.memory > free:
            needed = f"needs {case.memory / 1e9:.0f} GB of memory, {free / 1e9:.0f} GB were free"
            return self.leave_out(what, needed)
        began = time.monotonic()
        try:
            records: list[Record] = in_child(function, self.folder, case)
        except RuntimeError as error:
            return self.leave_out(what, str(error).strip().splitlines()[-1])
        into.extend(records)
        took = time.monotonic() - began
        print(f"{self.minutes:5.1f} min  round {number + 1}: {what} ({took:.0f} s)", file=sys.stderr, flush=True)
        self.keep()
        return None

    def keep(self) -> None:
        """A run of half an hour may be cut short: what it measured so far can be reported with ``--load``."""
        if self.save is not None:
            self.results.minutes = self.minutes
            self.results.surroundings = surroundings()
            self.save.write_text(json.dumps(self.results.to_json()), encoding="utf-8")

    def leave_out(self, what: str, why: str) -> None:
        print(f"{self.minutes:5.1f} min  {what} left out: {why}", file=sys.stderr, flush=True)
        self.results.left_out.append(f"{what}: {why}")


if __name__ == "__main__":
    main()
