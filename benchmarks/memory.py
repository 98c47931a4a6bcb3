"""How much memory `commit` needs beyond the state itself.

A fresh process makes a model and its AdamW state on the CPU, trains a step, commits, trains and commits
again, and commits what has not changed. The kernel's high-water mark of the resident set (VmHWM, reset
through /proc/self/clear_refs just before a commit) minus the resident set before the commit is what the
commit needed at its worst moment: imports, index pages and mapped files included. Linux only.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from report import parse_destination, publish, surroundings, table

WIDTHS = (1024, 4096)
LAYERS = 5
MIB = 1 << 20


def status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {field}: this benchmark needs Linux.")


def measure(width: int, path: str) -> None:
    """In the child: one JSON object a commit on stdout."""
    import torch

    import ciuic

    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(width, width, bias=False) for _ in range(LAYERS)))
    optimizer = torch.optim.AdamW(model.parameters())
    repo = ciuic.Repo.open(path, create=True)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    for step in range(3):
        if step < 2:
            model(torch.randn(8, width)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        before = status_bytes("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        snapshot = repo.commit(model, optimizer, step=step)
        record = {
            "extra": max(0, status_bytes("VmHWM") - before),
            "state": 3 * weights,
            "added": snapshot.added_bytes,
        }
        print(json.dumps(record), flush=True)


def main() -> None:
    page = parse_destination(__doc__)
    rows = []
    for width in WIDTHS:
        with tempfile.TemporaryDirectory(prefix="ciuic-bench-") as path:
            command = [sys.executable, __file__, "--child", str(width), path]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout
        records = [json.loads(line) for line in output.splitlines()]
        for record, which in zip(records, ("first", "after a step", "unchanged"), strict=True):
            rows.append(
                [
                    f"{record['state'] / MIB:.0f} MiB, {which}",
                    f"{record['added'] / MIB:.1f} MiB",
                    f"{record['extra'] / MIB:.0f} MiB",
                ]
            )
    text = table(["state", "stored", "peak beyond the state"], rows)
    publish("memory", f"{text}\n\n{surroundings()}.", page)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        measure(int(sys.argv[2]), sys.argv[3])
    else:
        main()
