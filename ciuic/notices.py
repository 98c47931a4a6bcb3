"""The few messages of a run's life that a person is to see, whether or not the program has configured logging."""

from __future__ import annotations

import logging

logger = logging.getLogger("ciuic")


def notice(message: str, *arguments: object) -> None:
    """Log at level INFO; and where no handler is there to show it, write it to stderr, as Python by itself does with
    warnings alone. Levels, filters and ``logging.disable`` count as ever."""
    if logger.hasHandlers() or _hidden():
        logger.info(message, *arguments)
        return
    record = logger.makeRecord(logger.name, logging.INFO, __file__, 0, message, arguments, None)
    if logger.filter(record):
        logging.StreamHandler().handle(record)  # made anew: stderr may be another file by now


def _hidden() -> bool:
    """Whether somebody does not want to see INFO. That the root logger stands at WARNING says nothing: it begins so."""
    root = logging.getLogger()
    set_to = logger.level or (logging.NOTSET if root.level == logging.WARNING else root.level)
    return logger.disabled or set_to > logging.INFO or root.manager.disable >= logging.INFO
