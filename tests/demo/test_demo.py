"""The guided tour, run as a person runs it, and what it says when the two runs are not the same run."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from ciuic.demo.comparison import Agreement, compare_runs, losses_by_step
from ciuic.demo.tour import run
from ciuic.errors import DemoFailed

COMMANDS = ["log", "show", "diff", "reset", "reflog", "branch", "checkout", "prune", "gc", "stats"]


def test_the_tour_is_bit_exact_and_shows_every_command(tmp_path: Path) -> None:
    lines: list[str] = []
    folder = tmp_path / "tour"
    run(lines.append, directory=str(folder), steps=40)

    shown = "\n".join(lines)
    assert "All 40 losses are bit-identical to the reference run's" in shown
    assert "tensors of the final weights are bit-identical" in shown
    assert "resuming after step 19" in shown
    assert lines.count("Killed.") == 1
    typed = [line.split()[2] for line in lines if line.startswith("$ ciuic ")]
    assert set(COMMANDS) <= set(typed)
    assert "\x1b" not in shown
    assert lines[-1].startswith(f"Everything is in {folder} ")


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(DemoFailed, match="not an empty folder"):
        run(print, directory=str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_package_costs_no_torch_until_it_runs() -> None:
    """`ciuic --help` imports the command's module; a person should not wait for torch there."""
    code = "import sys, ciuic.demo; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


class TestComparison:
    lines = ("step    0  loss 5.50000000", "step    1  loss 4.25000000")

    @pytest.fixture
    def weights(self, tmp_path: Path) -> Path:
        path = tmp_path / "weights.pt"
        torch.save({"layer.weight": torch.ones(3, 2), "layer.bias": torch.zeros(3)}, path)
        return path

    def test_counts_what_it_compared(self, weights: Path) -> None:
        seen = [*self.lines, "resuming from somewhere", self.lines[1]]
        expected = Agreement(steps=2, repeated_steps=1, tensors=2, elements=9)
        assert expected == compare_runs(self.lines, seen, weights, weights)

    def test_names_the_first_step_whose_loss_differs_even_if_computed_again(self, weights: Path) -> None:
        seen = [*self.lines, "step    1  loss 4.25000048"]
        with pytest.raises(DemoFailed, match=r"loss of step 1 is 4\.25000048 instead of 4\.25000000"):
            compare_runs(self.lines, seen, weights, weights)

    def test_names_a_missing_step(self, weights: Path) -> None:
        with pytest.raises(DemoFailed, match="step 1 is nothing"):
            compare_runs(self.lines, self.lines[:1], weights, weights)

    def test_no_losses_at_all_are_no_agreement(self, weights: Path) -> None:
        with pytest.raises(DemoFailed, match="no loss"):
            compare_runs([], [], weights, weights)

    def test_names_the_tensor_that_differs_in_the_sign_of_a_zero(self, weights: Path, tmp_path: Path) -> None:
        other = tmp_path / "other.pt"
        torch.save({"layer.weight": torch.ones(3, 2), "layer.bias": -torch.zeros(3)}, other)
        with pytest.raises(DemoFailed, match=r"layer\.bias"):
            compare_runs(self.lines, self.lines, weights, other)

    def test_a_missing_tensor_is_named(self, weights: Path, tmp_path: Path) -> None:
        other = tmp_path / "other.pt"
        torch.save({"layer.weight": torch.ones(3, 2)}, other)
        with pytest.raises(DemoFailed, match=r"layer\.bias"):
            compare_runs(self.lines, self.lines, weights, other)

    def test_reads_losses_only_from_lines_that_hold_one(self) -> None:
        seen = losses_by_step(["step 1 of many", "loss 3", *self.lines])
        assert seen == {0: ["5.50000000"], 1: ["4.25000000"]}


class TestTheTemporaryFolder:
    @pytest.fixture(autouse=True)
    def temporary(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        return tmp_path

    @pytest.mark.parametrize("end", [KeyboardInterrupt, BrokenPipeError])
    def test_goes_when_the_person_has_seen_enough(self, temporary: Path, end: type[BaseException]) -> None:
        def echo(_line: str) -> None:
            raise end

        with pytest.raises(end):
            run(echo)
        assert list(temporary.iterdir()) == []

    def test_stays_and_is_named_when_something_went_wrong(
        self, temporary: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "executable", "false")
        lines: list[str] = []
        with pytest.raises(DemoFailed, match="ended with 1 instead of 0"):
            run(lines.append)
        (folder,) = temporary.iterdir()
        assert lines[-1] == f"Everything so far is in {folder}"
        assert (folder / "reference" / "train.py").exists()
