"""`make bench-throughput` runs, and its tables have a row for each system. Its figures are not a test's business."""

import json
import os
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "throughput.py"
MARKERS = ["<!-- throughput: written by make bench-throughput -->", "<!-- end of throughput -->"]


def test_quick_run_writes_the_tables(tmp_path):
    """Every system saves and restores the very state, and what was measured can be reported again."""
    page, kept = tmp_path / "page.md", tmp_path / "times.json"
    page.write_text("\n".join(["before", *MARKERS, "after"]), encoding="utf-8")
    folders = ["--folder-memory", tmp_path, "--folder-disk", tmp_path]
    options = ["--quick", *folders, "--systems", "ciuic;safetensors", "--write", page, "--save", kept]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, BENCHMARK, *options], check=True, capture_output=True, env=environment)

    text = page.read_text(encoding="utf-8")
    assert text.startswith("before") and text.endswith("after")
    assert "Left out" not in text
    for row in ("| ciuic | ", "| torch.save | ", "| safetensors | ", "| ciuic, keyframe | ", "| torch.load | "):
        assert row in text
    for aim in (
        "durable commit, tmpfs: ciuic, ",
        "durable commit, disk, with fsync: ciuic, ",
        "memory beyond the state",
    ):
        assert aim in text
    assert not list(tmp_path.glob(".ciuic-throughput-*"))

    values = json.loads(kept.read_text(encoding="utf-8"))
    assert len(values["history"]["snapshots"]) == 3
    assert {figure["what"] for figure in values["figures"]} == {"save", "restore", "floor"}
    subprocess.run([sys.executable, BENCHMARK, "--load", kept, "--write", page], check=True, capture_output=True)
    assert page.read_text(encoding="utf-8") == text
