"""The tour itself: train, die, resume, look back, roll back, branch, clean up.

Nothing is prepared: each command is a process of its own, and what is called identical was compared.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from ciuic.demo.comparison import compare_runs
from ciuic.demo.stage import Stage
from ciuic.errors import DemoFailed

STEPS = 160
SNAPSHOTS = 8


def run(
    echo: Callable[[str], None],
    directory: str | None = None,
    keep: bool = False,
    color: bool = False,
    steps: int = STEPS,
) -> None:
    """Show ciuic at work on a small real training, one ``echo`` a line.

    Without a ``directory`` everything happens in a temporary folder, removed at the end unless ``keep``.
    A ``directory`` must be new or empty, and stays. ``steps`` is a multiple of 8, from 16 on.
    Raises ``DemoFailed``, and leaves the folder, when the resumed run differs in any bit from the
    uninterrupted one, or when a command fails.
    """
    folder = _make_folder(directory)
    stays = keep or directory is not None
    try:
        _tour(Stage(echo, folder / "run", color), folder / "reference", steps)
    except (KeyboardInterrupt, BrokenPipeError):  # the person has seen enough
        if not stays:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    except BaseException:
        echo("")
        echo(f"Everything so far is in {folder}")
        raise
    echo("")
    if stays:
        echo(f"Everything is in {folder} (the run, its snapshots and train.py in {folder / 'run'})")
    else:
        shutil.rmtree(folder)
        echo("The temporary folder is gone again; 'ciuic demo --keep' leaves it to play with.")


def _make_folder(directory: str | None) -> Path:
    if directory is None:
        return Path(tempfile.mkdtemp(prefix="ciuic-demo-"))
    folder = Path(directory).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DemoFailed(f"{folder} is not an empty folder. Name a new one, or none for a temporary one.")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _tour(stage: Stage, reference: Path, steps: int) -> None:
    every = steps // SNAPSHOTS
    for folder in (reference, stage.folder):
        folder.mkdir()
        shutil.copy(Path(__file__).with_name("train.py"), folder)

    _train_die_resume(stage, reference, steps, every)
    _look_back(stage, steps, every)
    _roll_back(stage)
    _branch_off(stage, steps, every)
    _clean_up(stage)


def _train_die_resume(stage: Stage, reference: Path, steps: int, every: int) -> None:
    settings = ("--steps", str(steps), "--every", str(every))
    stage.heading("1. For reference: a run that nobody interrupts")
    stage.say("A small transformer, with dropout, learns the Python standard library's source code.")
    expected = stage.train(reference, *settings)

    stage.heading("2. The same run in another folder, killed with SIGKILL half-way")
    lost_step = steps // 2 + every // 2
    printed = stage.train(stage.folder, *settings, kill_after_step=lost_step)

    stage.heading("3. The same command again")
    printed += stage.train(stage.folder, *settings)

    stage.say("")
    agreement = compare_runs(expected, printed, reference / "weights.pt", stage.folder / "weights.pt")
    stage.confirm(
        f"All {agreement.steps} losses are bit-identical to the reference run's "
        f"({agreement.repeated_steps} steps were lost, and computed again)."
    )
    stage.confirm(
        f"All {agreement.tensors} tensors of the final weights are bit-identical ({agreement.elements:,} numbers)."
    )


def _look_back(stage: Stage, steps: int, every: int) -> None:
    stage.heading("4. Look back")
    stage.ciuic("log")
    stage.say("")
    stage.say("Each was copied beside training and written by another process. What one of them cost:")
    stage.ciuic("show", "main")
    stage.ciuic("diff", f"step:{steps // 2 - 1}", "main", "--limit", "4")


def _roll_back(stage: Stage) -> None:
    stage.heading("5. Roll back, and change your mind")
    stage.ciuic("reset", "main~3")
    stage.ciuic("reflog", "main")
    stage.ciuic("reset", "main@{1}")


def _branch_off(stage: Stage, steps: int, every: int) -> None:
    stage.heading("6. Go back to the middle, and try a smaller learning rate on a branch")
    middle, end = steps // 2 - 1, steps * 3 // 4
    stage.ciuic("branch", "smaller-rate", f"step:{middle}")
    stage.ciuic("checkout", "smaller-rate")
    stage.train(stage.folder, "--steps", str(end), "--every", str(every), "--learning-rate", "1e-4")
    stage.ciuic("log", "--all")
    stage.ciuic("diff", f"main@step:{end - 1}", "smaller-rate", "--path", "model", "--limit", "4")


def _clean_up(stage: Stage) -> None:
    stage.heading("7. Clean up")
    stage.say("A snapshot may give up its optimizer state, or all; its place in the history stays.")
    stage.ciuic("prune", "main~6", "--component", "optimizer")
    stage.ciuic("prune", "main~5")
    stage.ciuic("gc")
    stage.ciuic("stats")
