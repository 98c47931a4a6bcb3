"""A crowd on one repository, of which one after the other is killed, at any instant, and takes up again.

``python storm.py FOLDER KILLS SEED``: works on FOLDER/repo and writes FOLDER/ledger. Ends with 1 when somebody of the
crowd failed, and not by being killed.
"""

from __future__ import annotations

import ctypes
import logging
import os
import random
import signal
import sys
import time
import traceback

import conftest  # noqa: F401  the folders of what the roles need
from ledger import Ledger
from roles import ROLES

from ciuic.errors import LockTimeout

CROWD = ("trainer", "background trainer", "reader", "reader", "gc")
LIKELY = {"trainer": 4, "background trainer": 1, "reader": 1, "gc": 4}
"""How often each is the one: what only reads has least to lose, and a writer process takes a while to start."""
LONGEST_S = 0.03
THINGS = (0, 0, 1, 1, 2)
"""So many has the next one done before it is killed."""
ALL_AT_ONCE = 12
"""Each so many-th time everybody is killed."""
PR_SET_PDEATHSIG = 1


def play(role: str, path: str, ledger: Ledger, chance: random.Random) -> None:
    """On a machine that is very busy a lock may not be had in time: who is told so begins again."""
    while True:
        try:
            ROLES[role](path, ledger, chance)
        except LockTimeout:
            ledger.write("gave-up")


class Crowd:
    """Forked from this process, which has imported everything and has neither threads nor locks."""

    def __init__(self, folder: str, seed: int) -> None:
        self.path = os.path.join(folder, "repo")
        self.ledger = Ledger(os.path.join(folder, "ledger"))
        self.chance = random.Random(seed)
        self.pids: dict[int, str] = {}

    @property
    def kills(self) -> int:
        """Those of writer processes, by their trainers, too."""
        return self.ledger.read().counts["killed"]

    def start(self, role: str) -> None:
        seed = self.chance.randrange(1 << 30)
        pid = os.fork()
        if pid == 0:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # whatever becomes of this process
            try:
                play(role, self.path, self.ledger, random.Random(seed))
            except BaseException:
                sys.stderr.write(f"{role}:\n{traceback.format_exc()}")
                sys.stderr.flush()
            os._exit(3)  # none of them ends by itself
        self.pids[pid] = role

    def kill(self, pid: int) -> str:
        """SystemExit when it had ended before."""
        os.kill(pid, signal.SIGKILL)  # not waited for yet: the number is its own
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self.ledger.write("killed", self.pids[pid].replace(" ", "-"))
        role = self.pids.pop(pid)
        if status != -signal.SIGKILL:
            raise SystemExit(f"{role} ended with {status}")
        return role

    def let_work(self, pid: int, lines: int) -> None:
        """Until it has done so many things since it started, and then any time."""
        while self.ledger.lines_of(pid) < lines and self.ended() is None:
            time.sleep(0.005)
        time.sleep(self.chance.uniform(0, LONGEST_S))

    @staticmethod
    def ended() -> int | None:
        """Somebody who was not killed."""
        result = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return None if result is None else result.si_pid

    def rage(self, kills: int) -> None:
        for role in CROWD:
            self.start(role)
        rounds = 0
        while self.kills < kills:
            rounds += 1
            pids = sorted(self.pids)
            (victim,) = self.chance.choices(pids, [LIKELY[self.pids[pid]] for pid in pids])
            things = self.chance.choice(THINGS)
            self.let_work(victim, min(1, things) if self.pids[victim] == "gc" else things)
            victims = self.chance.sample(pids, len(pids)) if rounds % ALL_AT_ONCE == 0 else [victim]
            failed = self.ended()
            for role in [self.kill(pid) for pid in ([failed] if failed else victims)]:
                self.start(role)

    def end(self) -> None:
        for pid in list(self.pids):
            self.kill(pid)


def main() -> None:
    logging.disable()  # that a run goes on on another branch is what they often do
    crowd = Crowd(sys.argv[1], int(sys.argv[3]))
    try:
        crowd.rage(int(sys.argv[2]) - len(CROWD))
    finally:
        crowd.end()
    print(crowd.kills)


if __name__ == "__main__":
    main()
