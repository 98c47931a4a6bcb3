"""A stranger's folder, one outside of it that nothing may touch, and a victim that opens what the stranger made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from world import LIBRARY, MOST_MEMORY_KIB, OURS, STEERING, UNEXPECTED, Opens, Outcome, World

HERE = Path(__file__).parent


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path / "repository", tmp_path / "outside", tmp_path / "scratch")
    for folder in (world.outside, world.scratch):
        folder.mkdir()
    (world.outside / "letter").write_text("Dear diary\n")
    (world.outside / "folder").mkdir()
    (world.outside / "folder" / "file").write_text("mine\n")
    return world


@pytest.fixture(scope="session")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """One server for all attacks: it imports torch once."""
    home = tmp_path_factory.mktemp("home")
    path = os.pathsep.join([str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-W", "error", str(HERE / "victim.py")],
        env={**os.environ, "PYTHONPATH": path, "HOME": str(home), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    process.communicate()
    assert process.returncode == 0
    assert not list(home.iterdir())


@pytest.fixture
def opened(world: World, victim: subprocess.Popen[str]) -> Opens:
    """Let the victim loose. Whatever the repository says: only typed errors come out, nothing outside is touched, no
    code is run, memory stays small, and the terminal is not steered."""

    def opened(file: Path | None = None, *, most_leaves: int | None = None) -> Outcome:
        request = {"repository": str(world.repository), "scratch": str(world.scratch), "most_leaves": most_leaves}
        if file is not None:
            request["file"] = str(file)
        before = world.untouched()
        assert victim.stdin is not None and victim.stdout is not None
        victim.stdin.write(json.dumps(request) + "\n")
        victim.stdin.flush()
        answer = json.loads(victim.stdout.readline())
        assert "died" not in answer, answer["died"]
        assert world.untouched() == before
        assert answer["forbidden"] == []
        assert answer["peak_kib"] < MOST_MEMORY_KIB
        outcome = Outcome({step["what"]: step for step in answer["steps"]}, answer["cpu_s"])
        for what, step in outcome.steps.items():
            # doctor says by its exit code that it has found something.
            assert step["code"] != UNEXPECTED or what == "doctor", (what, step)
            assert "This is a bug" not in step["err"], (what, step)
            for text in (step["out"], step["err"]) if what not in LIBRARY else ():
                assert not STEERING.search(OURS.sub("", text)), (what, text)
            if "--json" in what:
                for line in step["out"].splitlines():
                    assert json.loads(line)["version"] == 1
        return outcome

    return opened

