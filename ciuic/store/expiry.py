"""Which log records gc may forget. Policy, not safety: judged against the newest time in the same log, never now."""

from __future__ import annotations

import time
from datetime import timedelta

from ciuic.errors import ClockDisagrees, DamagedRef
from ciuic.store.config import Config
from ciuic.store.reflog import NOTHING, LogRecord
from ciuic.store.refs import NOTES
from ciuic.store.store import Store, log_mark

DAY_NS = 86_400 * 10**9


def read_logs(store: Store) -> dict[str, list[LogRecord]]:
    """Every ref log, whole. DamagedRef when one is damaged or missing, or shorter than the index remembers it; and when
    the notes are damaged, which name no roots."""
    store.refs.check_folders()
    store.refs.records(NOTES)
    logs = {}
    marks = store.index.log_marks()
    for name in dict.fromkeys([*store.refs.names(), *marks]):
        records = store.refs.log(name).read()
        mark = marks.get(name)
        if mark is not None:
            last = records[-1] if records else None
            if last is None or last.sequence < mark.sequence:
                raise DamagedRef(
                    f"{name}: the log ends before record {mark.sequence}, which was there. Nothing was changed. "
                    "Restore the file from a copy, or delete the index folder to accept it as it is."
                )
            same = [record for record in records if record.sequence == mark.sequence]
            if same and log_mark(name, same[0]) != mark:
                raise DamagedRef(
                    f"{name}: record {mark.sequence} is not the one that was there. Nothing was changed. "
                    "Restore the file from a copy, or delete the index folder to accept it as it is."
                )
        logs[name] = records
    return logs


def check_clock(logs: dict[str, list[LogRecord]], config: Config) -> None:
    """ClockDisagrees when the newest record and the clock are further apart than the expiry."""
    newest = max((record.time_ns for records in logs.values() for record in records), default=None)
    if newest is None:
        return
    days = abs(time.time_ns() - newest) / DAY_NS
    if days > config.expire_days:
        raise ClockDisagrees(
            f"The newest log record is {days:.0f} days away from the clock, more than the {config.expire_days} days "
            "after which records expire. If the clock is right, run `ciuic gc --trust-clock`."
        )


def kept(logs: dict[str, list[LogRecord]], config: Config, expire: timedelta | None) -> dict[str, list[LogRecord]]:
    """What is left of each log. An explicit ``expire`` sets the age and protects the newest record only. With it goes
    the whole log of a ref that was deleted longer ago than that, judged against the newest record of all logs.
    """
    newest = max((record.time_ns for records in logs.values() for record in records), default=0)
    left = {}
    for name, records in logs.items():
        deleted = bool(records) and records[-1].new == NOTHING
        gone = deleted and expire is not None and newest - records[-1].time_ns >= expire.total_seconds() * 1e9
        left[name] = [] if gone else _remaining(records, config, expire)
    return left


def _remaining(records: list[LogRecord], config: Config, expire: timedelta | None) -> list[LogRecord]:
    if not records:
        return records
    newest = max(record.time_ns for record in records)
    if expire is None:
        age_ns, protected = config.expire_days * DAY_NS, config.keep_records
    else:
        age_ns, protected = int(expire.total_seconds() * 1e9), 1
    for index, record in enumerate(records):
        if newest - record.time_ns < age_ns or index >= len(records) - protected:
            return records[index:]
    return []
