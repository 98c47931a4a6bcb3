"""The writer process: takes orders, in order, until its trainer is gone; then finishes what it has, and exits."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import socket
import sys

from ciuic.objects.encoding import decode
from ciuic.writer import orphans, priority
from ciuic.writer.channel import Channel
from ciuic.writer.link import Link
from ciuic.writer.memory_file import contents
from ciuic.writer.signals import HELD_SIGNALS

NO_HELLO = 2


class _Forward(logging.Handler):
    """What is logged here is logged by the trainer."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link

    def emit(self, record: logging.LogRecord) -> None:
        self._link.post({"log": record.levelno, "text": record.getMessage()})


def main() -> None:
    """Serve the trainer at the other end of standard input. Returns when every order is done."""
    faulthandler.enable()
    for each in HELD_SIGNALS:  # its trainer's end is its own, and comes when all is done
        signal.signal(each, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_SIGNALS)
    channel = Channel(_endpoint())
    messages = channel.receive()  # it was sent before this process was started
    if not messages:
        raise SystemExit(NO_HELLO)
    (_, (carrier,)), *early = messages
    hello = decode(contents(carrier))
    os.close(carrier)
    link = Link(channel, hello["trainer"], hello["beat"])
    for message in early:
        link.orders.put(message)
    link.start()
    if hello["low"]:
        priority.lower()
    logger = logging.getLogger("ciuic")
    logger.addHandler(_Forward(link))
    logger.propagate = False
    sys.path += [entry for entry in hello["path"] if entry not in sys.path]

    from ciuic.writer.storing import Storing  # slow on some machines: it beats already

    storing = Storing(link, hello["repository"], hello["leftovers"], retention=hello["retention"])
    while True:
        link.busy = not link.orders.empty()
        order = link.orders.get()
        if order is None:
            break
        link.busy = True
        storing.store(*order)
    if not link.orphaned:
        storing.finish()
    orphans.remove(hello["repository"], hello["announced"])
    link.tell()


def _endpoint() -> socket.socket:
    """The socket that stands in for standard input, which is nothing from now on."""
    endpoint = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return endpoint
