"""`make bench-stall` runs, and its tables have a row for each system. Its figures are not a test's business."""

import json
import os
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "stall.py"
MARKERS = ["<!-- stall: written by make bench-stall -->", "<!-- end of stall -->"]


def test_quick_run_writes_the_tables(tmp_path):
    page, kept = tmp_path / "page.md", tmp_path / "times.json"
    page.write_text("\n".join(["before", *MARKERS, "after"]), encoding="utf-8")
    options = ["--quick", "--systems", "ciuic", "--folder", tmp_path, "--write", page, "--save", kept]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, BENCHMARK, *options], check=True, capture_output=True, env=environment)

    text = page.read_text(encoding="utf-8")
    assert text.startswith("before") and text.endswith("after")
    for row in ("| none |", "| ciuic |", "| ciuic, low priority |", "| 12 MB: none |", "| 12 MB, every 1: ciuic |"):
        assert row in text
    assert "the call | 5 ms median, 10 ms p99 |" in text
    assert "12 MB: the call | 10 ms |" in text and "the slowest of 3" in text
    assert "2 of 2" in text
    assert "Left out" not in text
    assert not list(tmp_path.glob("ciuic-stall-*"))

    records = json.loads(kept.read_text(encoding="utf-8"))["records"]
    assert all(record["problems"] == [] for record in records)
    subprocess.run([sys.executable, BENCHMARK, "--load", kept, "--write", page], check=True, capture_output=True)
    assert page.read_text(encoding="utf-8") == text
