"""`make bench-size` runs, and its tables have a row for each series. Its figures are not a test's business."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
MARKERS = ["<!-- size: written by make bench-size -->", "<!-- end of size -->"]


def test_quick_run_writes_the_tables(tmp_path, monkeypatch):
    """Every snapshot comes back; the tables are in the page, and come from what was saved; a missing peer is named."""
    page, kept, programs = tmp_path / "page.md", tmp_path / "sizes.json", tmp_path / "programs"
    page.write_text("\n".join(["before", *MARKERS, "after"]), encoding="utf-8")
    programs.mkdir()
    chosen = ["--quick", "--series", "b,e,f2", "--systems", "torch.save,safetensors,restic"]
    options = ["--folder", tmp_path, "--write", page, "--save", kept]
    environment = {**os.environ, "PATH": str(programs)}
    command = [sys.executable, BENCHMARKS / "size.py", *chosen, *options]
    subprocess.run(command, check=True, capture_output=True, env=environment)

    text = page.read_text(encoding="utf-8")
    assert text.startswith("before") and text.endswith("after")
    for name in ("fp32, lr 3e-4, every step", "bf16 + fp32 masters, lr 2e-5, every step", "LoRA, lr 3e-4, every 10"):
        assert f"| {name} | 3 |" in text
    assert "| fp32, lr 3e-4, every step: bytes in packs | 0.32 of raw |" in text
    assert "| ciuic | torch.save | safetensors | restic |" in text
    assert "| not installed |" in text
    assert not list(tmp_path.glob("ciuic-size-*"))

    saved = json.loads(kept.read_text(encoding="utf-8"))
    records = {record["key"]: record for record in saved["records"]}
    for record in records.values():
        raw, floor, ciuic = record["raw"][-1], record["floor"][-1], record["stored"]["ciuic"][-1]
        assert 0 < floor < raw
        assert 0 < ciuic < 1.1 * raw
    assert records["b"]["changed"] == records["b"]["raw"]
    assert records["f2"]["changed"][-1] < 0.7 * records["f2"]["raw"][-1]
    assert records["b"]["stored"]["safetensors"][-1] > records["b"]["raw"][-1]

    monkeypatch.syspath_prepend(str(BENCHMARKS))
    size_report = importlib.import_module("size_report")
    assert size_report.report(size_report.Results.from_json(saved)) in text


@pytest.fixture(scope="module")
def floor():
    spec = importlib.util.spec_from_file_location("size_floor", BENCHMARKS / "size_floor.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.floor


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.uint8])
def test_the_floor_is_the_entropy_of_the_planes(floor, dtype):
    """Against the definition, element by element, in a few slow lines."""
    torch.manual_seed(0)
    before = (100 * torch.randn(5, 61)).to(dtype)
    after = torch.where(torch.rand(before.shape) < 0.3, before, (100 * torch.randn(before.shape)).to(dtype))
    needed, changed = floor({"t": after}, {"t": before})
    assert changed == after.nbytes

    def integers(tensor):
        width = tensor.element_size()
        data = tensor.contiguous().view(torch.uint8).numpy().tobytes()
        return [int.from_bytes(data[at : at + width], "little") for at in range(0, len(data), width)]

    def zigzag(difference, bits):
        signed = difference - (1 << bits) if difference >> (bits - 1) else difference
        return 2 * signed if signed >= 0 else -2 * signed - 1

    def entropy(elements, width):
        total = 0.0
        for plane in range(width):
            _, counts = np.unique([element >> (8 * plane) & 255 for element in elements], return_counts=True)
            total -= (counts * np.log2(counts / counts.sum())).sum() / 8
        return total

    width = after.element_size()
    pairs = zip(integers(after), integers(before), strict=True)
    differences = [zigzag((a - b) % (1 << 8 * width), 8 * width) for a, b in pairs]
    assert needed == pytest.approx(min(entropy(differences, width), entropy(integers(after), width)))


def test_the_floor_of_what_did_not_change_is_nothing(floor):
    """A frozen tensor costs nothing; one of another shape or type stands alone."""
    tensor = torch.randn(1000)
    assert floor({"t": tensor}, {"t": tensor.clone()}) == (0.0, 0)
    alone, nbytes = floor({"t": tensor}, None)
    assert nbytes == 4000 and 0.5 * nbytes < alone < nbytes
    assert floor({"t": tensor}, {"t": tensor.view(10, 100)}) == (alone, nbytes)
    assert floor({"t": tensor}, {"t": tensor.to(torch.float64)}) == (alone, nbytes)
