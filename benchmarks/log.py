"""How long `ciuic log` takes on 1 000 snapshots, against a bare Python that imports click.

Each command is a process of its own, its output goes to a pipe. The commands take turns, so that a slow
spell of the machine hits all of them; the median over the rounds counts.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time

import torch
from report import parse_destination, publish, surroundings, table

import ciuic

SNAPSHOTS = 1000
ROUNDS = 25


def fill(path: str) -> None:
    """A history such as a training leaves it: a tip that moves, metrics, hyper-parameters."""
    torch.manual_seed(0)
    model = torch.nn.Linear(16, 16)
    repo = ciuic.Repo.open(path, create=True)
    for step in range(99, SNAPSHOTS * 100, 100):
        torch.nn.init.normal_(model.weight)
        repo.commit(
            model,
            step=step,
            metrics={"loss": 1 / (1 + step), "accuracy": 0.5},
            config={"learning_rate": 3e-4},
        )


def seconds(command: list[str]) -> float:
    # As on a person's machine: with bytecode cached, whatever this shell says about it.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
    return time.perf_counter() - start


def main() -> None:
    page = parse_destination(__doc__)
    with tempfile.TemporaryDirectory(prefix="ciuic-bench-") as path:
        fill(path)
        ciuic_command = [sys.executable, "-m", "ciuic", "-C", path]
        commands = {
            "`python -c 'import click'`": [sys.executable, "-c", "import click"],
            f"`ciuic log`, {SNAPSHOTS} snapshots": [*ciuic_command, "log"],
            "`ciuic log -n 20`": [*ciuic_command, "log", "-n", "20"],
            "`ciuic --json log`": [*ciuic_command, "--json", "log"],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for command in commands.values():
            seconds(command)  # the first start reads the disk and writes bytecode
        for _ in range(ROUNDS):
            for name, command in commands.items():
                times[name].append(seconds(command))

    base = next(iter(times.values()))
    rows = [
        [
            name,
            f"{1000 * statistics.median(values):.0f} ms",
            f"{1000 * min(values):.0f}–{1000 * max(values):.0f} ms",
            # Of each round's own ratio, so that a slow spell counts on both sides.
            f"{statistics.median(value / bare for value, bare in zip(values, base, strict=True)):.2f}",
        ]
        for name, values in times.items()
    ]
    text = table(["command", f"median of {ROUNDS}", "range", "ratio"], rows)
    publish("log", f"{text}\n\n{surroundings()}.", page)


if __name__ == "__main__":
    main()
