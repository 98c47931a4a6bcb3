"""A real second process on a repository, that does what it is told, and dies in the middle of it when told to.

It is forked from one that has imported everything and has neither threads nor locks.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import subprocess
import sys
from multiprocessing.connection import Client, Connection
from typing import Any

from handle import Handle

SERVE = "import sys, other_process; other_process.serve(sys.argv[1])"


class Died(Exception):
    """The process ended before it answered."""


class Nursery:
    """The process from which the others are forked. ``close`` ends it; so does the end of this one."""

    def __init__(self, folder: str) -> None:
        self.address = os.path.join(folder, "nursery")
        path = os.pathsep.join(each for each in sys.path if each)
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", SERVE, self.address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        if said != b"ready\n":
            self.close()  # its remains would be blamed on the next test that collects garbage
            raise AssertionError(f"the nursery does not work: {said!r}")

    def close(self) -> None:
        self._process.communicate()


class OtherProcess:
    """A Handle in a process of its own: ``call`` its methods."""

    def __init__(self, nursery: Nursery, path: str) -> None:
        self._nursery, self._path = nursery, path
        self._line: Any = None

    def call(self, verb: str, *arguments: object) -> Any:
        """What the method returns or raises; Died. The next call is answered by another process then."""
        if self._line is None:
            self._line = Client(self._nursery.address, "AF_UNIX")
            self._line.send(self._path)
        try:
            self._line.send((verb, arguments))
            answer, error = self._line.recv()
        except (EOFError, ConnectionError):
            self.close()
            raise Died(verb) from None
        if error is not None:
            raise error
        return answer

    def close(self) -> None:
        """The process ends when it sees it."""
        if self._line is not None:
            self._line.close()
            self._line = None


def serve(address: str) -> None:
    """Fork a process for each that connects, until standard input ends."""
    logging.disable()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        print("ready", flush=True)
        while 0 not in select.select([0, listening], [], [])[0]:
            line, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                with contextlib.suppress(EOFError, ConnectionError):
                    _obey(Connection(line.detach()))
                os._exit(0)
            line.close()


def _obey(line: Any) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    handle = Handle(line.recv())
    while True:
        verb, arguments = line.recv()
        try:
            line.send((getattr(handle, verb)(*arguments), None))
        except Exception as error:
            line.send((None, error))
