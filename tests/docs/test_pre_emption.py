"""docs/pre-emption.md: its batch script does what it says, when it is signalled as Slurm signals it."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

TEXT = (Path(__file__).parents[2] / "docs" / "pre-emption.md").read_text(encoding="utf-8")
(BATCH,) = re.findall(r"^```bash\n(#!/bin/bash\n.*?)^```", TEXT, re.M | re.S)
TRAINING = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), sys.exit(0)))
print("ready", flush=True)
signal.pause()
"""


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def test_the_time_limit(tmp_path: Path) -> None:
    """The shell alone is signalled: the training leaves with its snapshot, and the job is put back in the queue."""
    program(tmp_path / "scontrol", '#!/bin/sh\necho "scontrol $*"\n')
    program(tmp_path / "python", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    program(tmp_path / "job.sh", BATCH)
    (tmp_path / "train.py").write_text(TRAINING)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "4711"}
    with subprocess.Popen(
        ["bash", "job.sh"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, encoding="utf-8"
    ) as job:
        assert job.stdout is not None and job.stdout.readline() == "ready\n"
        job.send_signal(signal.SIGUSR1)
        assert job.communicate()[0] == "saved\nscontrol requeue 4711\n"
