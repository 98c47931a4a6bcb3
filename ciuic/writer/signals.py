"""Signals that a writer process does not hear: they are sent to all of a job's processes, and mean the trainer."""

import signal

HELD_SIGNALS = {
    signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM,
    signal.SIGPIPE,
}  # fmt: skip
