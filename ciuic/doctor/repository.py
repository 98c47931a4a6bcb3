"""The repository itself, without reading its data: packs, logs, index, what was read when, and what lies about."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

from ciuic.doctor.findings import Finding, note, ok, problem
from ciuic.errors import CiuicError
from ciuic.retention.texts import policies_in
from ciuic.store.expiry import read_logs
from ciuic.store.footer_index import FooterIndex
from ciuic.store.locks import is_held
from ciuic.store.store import Store
from ciuic.store.verification import last_verified

MANY_PACKS = 2000
LONG_AGO = timedelta(days=60)


def look(store: Store) -> Iterator[Finding]:
    """Under the shared lock."""
    yield _packs(store)
    yield _logs(store)
    yield _index(store)
    yield _settings(store)
    yield _verification(store)
    yield from _leftovers(store)


def _packs(store: Store) -> Finding:
    count = len(store.present)
    broken = sorted(name for name in store.present if not _opens(store, name))
    if broken:
        return problem(
            "packs",
            "{damaged} of {packs} packs cannot be read, {first} for one",
            "`ciuic repair` says what can be saved, and how.",
            damaged=len(broken),
            packs=count,
            first=broken[0][:12],
        )
    if count > MANY_PACKS:
        return note("packs", "{packs} packs, which makes opening slow", "`ciuic gc` merges small ones.", packs=count)
    word = "pack" if count == 1 else "packs"
    return ok("packs", f"{{packs}} {word}, and what each of them lists can be read", packs=count)


def _opens(store: Store, name: str) -> bool:
    try:
        return store.pack(name).rows is not None
    except (CiuicError, FileNotFoundError):
        return False


def _logs(store: Store) -> Finding:
    try:
        logs = read_logs(store)
        store.refs.prunes()
    except CiuicError as error:
        advice = "gc does not run. `ciuic repair` says what can be saved, and how."
        return problem("logs", "{reason}", advice, reason=str(error).split(". ")[0])
    count = sum(map(len, logs.values()))
    return ok("logs", f"{{records}} {'record' if count == 1 else 'records'}, all sound", records=count)


def _index(store: Store) -> Finding:
    if not isinstance(store.index, FooterIndex):
        return ok("index", "in use")
    if store.network is not None:
        text = "not used on a network file system: every command reads what each pack lists"
        return note("index", text, "On a local disk it is used.")
    text = "cannot be written or is held by a stopped process: every command reads what each pack lists"
    return note("index", text, "See who may write to index/, and who has it open (`fuser -v`).")


def _settings(store: Store) -> Finding:
    """What the next run and gc read; the training's own triggers are judged when it begins."""
    try:
        policies_in(store.config.retention)
    except CiuicError as error:
        reason = str(error).removeprefix(f"{store.join('config.toml')}: ").split(". ")[0]
        advice = "No run begins and gc does not run before config.toml is corrected, or deleted for the defaults."
        return problem("settings", "{reason}", advice, reason=reason)
    return ok("settings", "config.toml can be read")


def _verification(store: Store) -> Finding:
    times = {name: at for name, at in last_verified(store).items() if name in store.present}
    never = len(store.present) - len(times)
    advice = "`ciuic fsck --read-data=5%` once a day reads everything within weeks; `--read-data` does it now."
    facts = {"never": never, "packs": len(store.present)}
    if not store.present:
        return ok("verified", "there is nothing to read yet")
    if times:
        facts["oldest_time"] = oldest = datetime.fromtimestamp(min(times.values()), timezone.utc)  # type: ignore[assignment]
    if never:
        has = "has" if never == 1 else "have"
        return note("verified", f"{{never}} of {{packs}} packs {has} not been read whole so far", advice, **facts)
    if datetime.now(timezone.utc) - oldest > LONG_AGO:
        return note("verified", "every pack was read whole, one of them last {oldest_time}", advice, **facts)
    return ok("verified", "every pack was read whole, the least recent {oldest_time}", **facts)


def _leftovers(store: Store) -> Iterator[Finding]:
    for folder, advice in (
        ("tmp", "What no run under way needs, `ciuic gc` removes."),
        ("trash", "`ciuic gc` removes it."),
        ("quarantine", "Damaged files that were set aside: delete them when you have what you need."),
    ):
        sizes = [size for name in store.fs.list_folder(store.join(folder)) for size in _left(store, folder, name)]
        if sizes:
            text = "{files} files, {size_bytes}" if len(sizes) > 1 else "{files} file, {size_bytes}"
            yield note(f"{folder}/", text, advice, files=len(sizes), size_bytes=sum(sizes))


def _left(store: Store, folder: str, name: str) -> Iterator[int]:
    """The size of a file that nobody holds."""
    path = store.join(folder, name)
    if folder == "tmp" and name.startswith("run-") and is_held(store.fs, path):
        return
    try:
        yield os.lstat(path).st_size
    except OSError:
        return
