"""Runs trainings as processes that are killed: a program that imports torch once, and forks each life of a training.

``python killed.py LOADER FOLDER SEED``: one training without interruption; then the same, SIGKILLed at random moments
until it comes to its end. Prints "LIVES n" and "DIFFERENCE …".
"""

import json
import os
import random
import signal
import sys
import time

import resumed_training as training

LEAST_LIVES = 4


def life(folder, name, reports):
    """In a child: train until the end or a kill, and report every step before it ends."""
    record = training.Record()
    run = training.Training(folder, {**training.LOADERS, **training.WORKERS}[name], seed=1, interval=2)

    def told(step):
        os.write(reports, (json.dumps([step, *record.steps[step]]) + "\n").encode())

    run.run(record, told=told, max_epochs=3 * training.EPOCHS)
    os.write(reports, (json.dumps(record.weights) + "\n").encode())


def forked(*arguments):
    """(pid, a file of what it reports) of a child that leads one life."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)  # with its workers, as a machine that dies
        os.close(read)
        try:
            life(*arguments, write)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(write)
    return pid, os.fdopen(read, encoding="utf-8")


def main():
    name, folder, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
    chance = random.Random(seed)
    expected = training.whole(f"{folder}/whole", {**training.LOADERS, **training.WORKERS}[name],
                              max_epochs=3 * training.EPOCHS)  # fmt: skip
    steps = len(expected.steps)
    seen = training.Record()
    lives = 0
    while not seen.weights:
        lives += 1
        pid, reports = forked(f"{folder}/killed", name)
        last = chance.randrange(2, 2 + steps // 4) if lives < LEAST_LIVES else None  # step of this life, by count
        for count, line in enumerate(reports):
            report = json.loads(line)
            if isinstance(report, str):
                seen.weights = report
                continue
            step, *what = report
            assert seen.steps.setdefault(step, tuple(what)) == tuple(what), f"life {lives}, step {step}"
            if count == last:
                time.sleep(chance.random() * 0.02)
                os.killpg(pid, signal.SIGKILL)  # what it has reported before is read all the same
        reports.close()
        status = os.waitpid(pid, 0)[1]
        assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL), status
        assert bool(seen.weights) == (status == 0)
    print("LIVES", lives)
    print("DIFFERENCE", training.first_difference(seen, expected))


if __name__ == "__main__":
    main()
