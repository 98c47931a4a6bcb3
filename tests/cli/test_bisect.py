"""ciuic bisect: by hand and by a command, on a real repository."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .conftest import Result, Run, clean_environment, run_here, run_process

SPIKED = "import os, sys; sys.exit(int(os.environ['CIUIC_STEP']) >= 399)"
LOADS = """
import os, sys
import ciuic
weight = ciuic.Repo.open(os.environ["CIUIC_REPO"]).load(os.environ["CIUIC_REVISION"])["model"]["layers.0.weight"]
sys.exit(weight.shape != (3, 4) or int(os.environ["CIUIC_STEP"]) >= 299)
"""


def asked(run: Run, script: str, *options: str) -> Result:
    """`ciuic bisect run` from 99 to main with a Python script. 399 is tried first, then 299 or 499."""
    return run("bisect", "run", "--good", "step:99", "--bad", "main", *options, "--", sys.executable, "-c", script)


def test_run_finds_the_first_bad_one(change: Run, copy: Path, ids: dict[str, str]) -> None:
    """It says what it tries, what came of it, the result with step and metrics, and what to do then. HEAD stays."""
    before = change("log", "--all", "--json").out
    result = asked(change, SPIKED)
    assert (result.code, result.err) == (0, "")
    *tries, found, good, hint = result.lines
    assert found == f"{ids['main:399'][:8]} (step 399) loss=2.5 accuracy=0.9 is the first bad one"
    assert good == f"{ids['main:299'][:8]} (step 299) loss=1 accuracy=0.4, before it, is good"
    assert f"`ciuic diff {ids['main:299'][:8]} {ids['main:399'][:8]}`" in hint
    assert len(tries) == 4, "two tries, two lines each"
    assert tries[0].startswith("Trying ") and tries[0].endswith("; 4 to choose from, about 3 tries")
    assert " is bad (exit code 1, " in result.out and " is good (exit code 0, " in result.out
    assert change("log", "--all", "--json").out == before
    assert not (copy / "bisect").exists(), "a search that has ended leaves nothing behind"


def test_the_command_reads_the_snapshot(change: Run, ids: dict[str, str]) -> None:
    """With CIUIC_REPO and CIUIC_REVISION a script finds the state that it is asked about."""
    result = change(
        "bisect", "run", "--good", "step:199", "--bad", "step:399", "--", sys.executable, "-c", LOADS
    )  # only 299 is to be tried: each try imports torch
    assert f"{ids['main:299'][:8]} (step 299) loss=1 accuracy=0.4 is the first bad one" in result.lines


def test_the_id_and_a_file_as_arguments(change: Run, ids: dict[str, str], tmp_path: Path) -> None:
    """{} is the id; {file} is what --export wrote, and gone afterwards. Braces elsewhere are the command's own."""
    script = (
        "import os, sys; from safetensors import safe_open; seen = {}; step = safe_open(sys.argv[2][7:], 'numpy');"
        "assert sys.argv[1] == os.environ['CIUIC_REVISION'] == step.metadata()['ciuic.snapshot'];"
        "assert sys.argv[2][7:] == os.environ['CIUIC_EXPORT'] and 'layers.0.weight' in step.keys();"
        f"open({str(tmp_path / 'files')!r}, 'a').write(sys.argv[2][7:] + chr(10));"
        "sys.exit(int(step.metadata()['ciuic.step']) >= 499)"
    )
    ends = ("--good", "step:299", "--bad", "main", "--export", "safetensors")
    result = change("bisect", "run", *ends, "--", sys.executable, "-c", script, "{}", "--file={file}")
    assert f"{ids['main:499'][:8]} (step 499) loss=1.5 accuracy=0.6 is the first bad one" in result.lines, result
    files = (tmp_path / "files").read_text().split()
    assert len(files) >= 2 and all(file.endswith(".safetensors") for file in files)
    assert not any(os.path.exists(file) for file in files)


@pytest.mark.parametrize(("code", "verdict"), [(1, "bad"), (124, "bad"), (126, "bad"), (127, "bad"), (125, "skipped")])
def test_exit_codes(change: Run, code: int, verdict: str) -> None:
    """As git reads them."""
    result = asked(change, f"import os, sys; sys.exit({code} if os.environ['CIUIC_STEP'] == '399' else 0)")
    assert f" is {verdict} (exit code {code}, " in result.out


def test_what_could_not_be_tried_leaves_it_open(change: Run, ids: dict[str, str]) -> None:
    """All that it may be is listed, and the exit code says that nothing was found."""
    answers = "{'199': 0, '299': 125, '399': 125, '499': 1}"
    result = asked(change, f"import os, sys; sys.exit({answers}[os.environ['CIUIC_STEP']])")
    assert result.code == 24
    assert result.lines[-4:] == [
        "The first bad one is one of these: those that are not bad could not be tried",
        f"  {ids['main:299'][:8]} (step 299) loss=1 accuracy=0.4  skipped",
        f"  {ids['main:399'][:8]} (step 399) loss=2.5 accuracy=0.9  skipped",
        f"  {ids['main:499'][:8]} (step 499) loss=1.5 accuracy=0.6  bad",
    ]


def test_pruned_snapshots_are_passed_over(change: Run) -> None:
    """They are never tried, and named where they leave it open."""
    change("prune", "step:399")
    result = asked(change, SPIKED)
    assert result.code == 24 and not any("Trying" in line and "step 399" in line for line in result.lines)
    assert [line.split()[-1] for line in result.lines[-2:]] == ["pruned", "bad"]
    change("bisect", "start", "--good", "step:99", "--bad", "main")
    assert change("bisect", "good", "step:199").lines[-1] == "1 snapshot passed over: pruned."


@pytest.mark.parametrize("how", ["sys.exit(200)", "os.kill(os.getpid(), 9)"])
def test_a_command_that_stops_the_search(change: Run, how: str) -> None:
    """The answers so far are kept: the same line goes on from there, another one is refused."""
    stops = f"import os, sys; os.environ['CIUIC_STEP'] == '299' or sys.exit(1); {how}"
    first = asked(change, stops)
    assert first.code == 24 and "which stops the search." in first.err
    answers = change("--json", "bisect", "log").records
    told = [(record["step"], record["verdict"]) for record in answers if record["event"] == "answer"]
    assert told == [(99, "good"), (599, "bad"), (399, "bad")]
    other = asked(change, SPIKED)
    assert other.code == 24 and "The answers so far are those of" in other.err
    again = asked(change, stops)
    assert again.code == 24 and again.lines[0].startswith("Going on with 3 answers from before")
    assert "Trying" in again.lines[1] and "(step 299)" in again.lines[1]
    assert change("bisect", "reset").out == "The bisection is forgotten\n"
    assert asked(change, SPIKED).code == 0


def test_verify(change: Run) -> None:
    """With --verify the ends are tried first; a command that finds the good one bad is not worth a search."""
    assert asked(change, SPIKED, "--verify").code == 0
    result = asked(change, "raise SystemExit(1)", "--verify")
    assert result.code == 24
    assert "should be good, and the command says bad (exit code 1" in result.err
    assert "should be bad, and the command says good" in asked(change, "", "--verify").err


def test_run_as_json(copy: Path, ids: dict[str, str]) -> None:
    """A line a try and one for the result; what the command prints is not between them."""
    script = "print('chatter'); " + SPIKED
    command = ("bisect", "run", "--good", "step:99", "--bad", "main", "--", sys.executable, "-c", script)
    result = run_process("--repo", str(copy), "--json", *command)
    *tried, found = result.records
    assert "chatter" in result.err
    assert {record["event"] for record in tried} == {"tried"}
    assert {(record["step"], record["verdict"], record["exit_code"]) for record in tried} <= {
        (199, "good", 0), (299, "good", 0), (399, "bad", 1), (499, "bad", 1),
    }  # fmt: skip
    assert (found["event"], found["found"]["snapshot"]) == ("found", ids["main:399"])
    assert found["last_good"] == ids["main:299"] and found["found"]["metrics"]["loss"] == 2.5


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("bisect", "run", "--", "true"), 2, "give --good REV and --bad REV"),
        (("bisect", "run", "--good", "step:99", "--bad", "main"), 2, "after --"),
        (("bisect", "run", "--good", "main", "--bad", "step:99", "--", "true"), 24, "exchange good and bad"),
        (("bisect", "run", "--good", "main", "--bad", "main", "--", "true"), 24, "is said to be good and bad"),
        (("bisect", "start", "--good", "main", "--bad", "main"), 24, "Name two different snapshots"),
        (("bisect", "run", "--good", "step:1", "--bad", "main", "--", "true"), 21, "names no snapshot"),
        (("bisect", "run", "--good", "step:99", "--bad", "main", "--", "true", "{file}"), 2, "give --export"),
        (("bisect", "log",), 24, "There is no bisection"),
        (("bisect", "good",), 24, "There is no next snapshot"),
        (("bisect", "nonsense",), 2, "No such command"),
    ],
)  # fmt: skip
def test_what_is_refused(change: Run, copy: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    """No search is left behind."""
    result = change(*arguments)
    assert result.code == code and message in result.err, result.err
    assert not (copy / "bisect").exists()


def test_a_command_that_is_not_there(change: Run) -> None:
    """It says nothing about any snapshot, and the next one, typed rightly, was refused for it."""
    result = change("bisect", "run", "--good", "step:99", "--bad", "main", "--", "/no/such/command")
    assert result.code == 24 and "/no/such/command cannot be run: No such file" in result.err
    assert "There is no bisection" in change("bisect", "log").err
    assert asked(change, SPIKED).code == 0


def test_by_hand(change: Run, ids: dict[str, str]) -> None:
    """start, then good, bad or skip about what it names, until it is found."""
    assert change("bisect", "start", "--good", "step:99").lines == ["Still to be told: `ciuic bisect bad REV`"]
    told = change("bisect", "bad", "main").lines
    assert told[0] == f"{ids['main:599'][:8]} (step 599) is bad"
    assert told[1].startswith("Try ") and "4 to choose from" in told[1]
    for _ in range(5):
        record = change("--json", "bisect", "log").records[-1]
        if record["event"] == "found":
            break
        change("bisect", "bad" if record["next"]["step"] >= 299 else "good")
    assert record["found"]["snapshot"] == ids["main:299"] and record["last_good"] == ids["main:199"]
    log = change("bisect", "log").lines
    assert log[0].split()[:4] == ["good", ids["main:99"][:8], "step", "99"]
    assert f"{ids['main:299'][:8]} (step 299) loss=1 accuracy=0.4 is the first bad one" in log
    assert change("--json", "bisect", "reset").record["reset"] is True
    assert change("bisect", "reset").out == "There was no bisection\n"


def test_skip_by_hand(change: Run) -> None:
    change("bisect", "start", "--good", "step:99", "--bad", "main")
    named = change("--json", "bisect", "log").records[-1]["next"]["snapshot"]
    assert change("bisect", "skip").lines[0].endswith(" is skipped")
    assert change("--json", "bisect", "log").records[-1]["next"]["snapshot"] != named


def test_start_does_not_forget_in_silence(change: Run) -> None:
    change("bisect", "start", "--good", "step:99", "--bad", "main")
    assert change("bisect", "start", "--bad", "main").code == 24
    assert change("bisect", "run", "--good", "step:199", "--bad", "main", "--", "true").code == 24


def test_run_goes_on_where_a_person_began(change: Run, ids: dict[str, str]) -> None:
    """Ends that were told by hand need not be told again."""
    change("bisect", "start", "--good", "step:99", "--bad", "main")
    result = change("bisect", "run", sys.executable, "-c", SPIKED)
    assert f"{ids['main:399'][:8]} (step 399) loss=2.5 accuracy=0.9 is the first bad one" in result.lines


def test_killed_in_the_middle(copy: Path, ids: dict[str, str]) -> None:
    """By SIGKILL, while a command runs: the answers before it count, and the same line goes on."""
    script = (
        "import os, sys, time; step = int(os.environ['CIUIC_STEP']);"
        "marker = os.path.join(os.environ['CIUIC_REPO'], 'tmp', 'asked');"
        "step >= 399 and sys.exit(1);"
        "os.path.exists(marker) and sys.exit(0);"
        "open(marker, 'w').write(str(os.getpid())); time.sleep(600)"
    )
    arguments = ("--repo", str(copy), "bisect", "run", "--good", "step:99", "--bad", "main", "--", sys.executable, "-c")
    running = subprocess.Popen(
        [sys.executable, "-m", "ciuic", *arguments, script],
        env=clean_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    marker = copy / "tmp" / "asked"
    while not (marker.exists() and marker.read_text()):
        assert running.poll() is None
        time.sleep(0.05)
    running.kill()
    running.wait()
    os.kill(int(marker.read_text()), signal.SIGKILL)
    result = run_here(*arguments, script)
    assert result.code == 0 and result.lines[0].startswith("Going on with ")
    assert f"{ids['main:399'][:8]} (step 399) loss=2.5 accuracy=0.9 is the first bad one" in result.lines


def test_completion(copy: Path) -> None:
    """The commands of bisect, and revisions behind them."""

    def completed(*words: str) -> list[str]:
        environment = {"_CIUIC_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(["ciuic", *words]),
                       "COMP_CWORD": str(len(words)), "CIUIC_REPO": str(copy)}  # fmt: skip
        return [line.split(",")[1] for line in run_process(**environment).lines]

    assert set(completed("bisect", "")) == {"start", "good", "bad", "skip", "reset", "log", "run"}
    assert "lr-sweep" in completed("bisect", "bad", "")
    assert "baseline" in completed("bisect", "run", "--good", "")
    assert "baseline" in completed("note", "")
