"""Network file systems are recognised; nothing is written there unless it is allowed, and reading works."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ministore import CHUNK, Trainer, noise

import ciuic
from ciuic.errors import NetworkStorage, StorageError
from ciuic.store import locks
from ciuic.store.footer_index import FooterIndex
from ciuic.store.fs import FileSystem
from ciuic.store.fsck import check
from ciuic.store.gc import collect
from ciuic.store.network import VARIABLE, Mount, mount_of
from ciuic.store.repair import repair
from ciuic.store.store import Store
from ciuic.store.verification import last_verified

TABLE = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
31 27 0:28 / /data rw,relatime shared:2 master:7 - nfs4 filer:/export/data rw,vers=4.2
32 31 0:29 / /data/local rw,relatime - xfs /dev/nvme0n1 rw
33 27 0:30 / /with\\040blank rw - fuse.sshfs me@host:/home\\134me rw
34 27 0:31 / /over rw - ext4 /dev/sda rw
35 34 0:32 / /over rw - lustre 10.0.0.1@tcp:/scratch rw
36 27 0:33 / /windows rw - 9p C:\\134 rw
37 27 0:34 / /ntfs rw - fuseblk /dev/sdb1 rw
38 27 0:35 / /home rw - autofs systemd-1 rw
39 38 0:36 / /home/me rw - cifs //filer/me rw
40 27 0:37 / /merged rw - fuse.mergerfs a:b rw
"""


@pytest.mark.parametrize(
    ("path", "kind", "shared"),
    [
        ("/var/run", "ext4", False), ("/", "ext4", False),
        ("/data", "nfs4", True), ("/data/run/7", "nfs4", True), ("/database", "ext4", False),
        ("/data/local/run", "xfs", False),
        ("/with blank/run", "fuse.sshfs", True), ("/with", "ext4", False),
        ("/over/run", "lustre", True),
        ("/windows/run", "9p", True), ("/ntfs/run", "fuseblk", False), ("/merged/run", "fuse.mergerfs", False),
        ("/home/me/run", "cifs", True), ("/home/you", "autofs", False),
    ],
)  # fmt: skip
def test_where_a_path_lies(path: str, kind: str, *, shared: bool) -> None:
    """The longest mount above it; of two in one place the later. Blanks are octal numbers in the table."""
    mount = mount_of(TABLE, path)
    assert mount is not None and (mount.kind, mount.shared) == (kind, shared)


def test_more_of_them() -> None:
    """By name; the root of a sandbox that comes by 9p is nobody else's."""
    for kind in ("nfs", "smb3", "ceph", "gpfs", "beegfs", "fuse.gcsfuse", "fuse.juicefs", "fuse.glusterfs", "afs"):
        assert Mount("/x", kind, "").shared
    for kind in ("btrfs", "zfs", "tmpfs", "overlay", "apfs", "fuse.gocryptfs", "virtiofs", "fuse", "fuse."):
        assert not Mount("/x", kind, "").shared
    assert not Mount("/", "9p", "").shared


@given(st.text(max_size=200) | st.lists(st.sampled_from(TABLE.split()), max_size=60).map(" ".join))
def test_any_table(text: str) -> None:
    """Another kernel's table, or none, is no reason to fail."""
    assert mount_of(text, "/data/run") is None or mount_of(text, "/data/run").kind is not None  # type: ignore[union-attr]


class OnNfs(FileSystem):
    """Everything lies on one."""

    kind = "nfs4"

    def mountinfo(self) -> str:
        return f"27 1 0:9 / / rw - {self.kind} filer:/export rw\n"


@pytest.fixture
def local(trainer: Trainer) -> Trainer:
    """Made and filled while the disk was local."""
    for number in range(2):
        trainer.commit({"w": noise(number, 2 * CHUNK)}, step=number)
    return trainer


def allow(path: str) -> None:
    config = Path(path) / "config.toml"
    config.write_text(config.read_text().replace("allow_network = false", "allow_network = true"))


def changes(path: str) -> list[object]:
    """Whatever would change the repository, as calls."""

    def view() -> Trainer:
        return Trainer(path, OnNfs())

    def prune() -> None:
        trainer = view()
        with trainer.store.shared():
            trainer.store.refs.prune(str(trainer.tip()), None)

    return [
        lambda: view().commit({"w": noise("new")}),
        lambda: view().set("new", str(view().tip())),
        prune,
        lambda: collect(view().store),
        lambda: repair(view().store),
    ]


def test_refused(local: Trainer) -> None:
    """With the reason and both ways out; and nothing has changed, not even the index."""
    path = local.store.path
    before = {file: file.stat().st_mtime_ns for file in Path(path).rglob("*") if file.name not in ("lock", "gate")}
    for change in changes(path):
        with pytest.raises(NetworkStorage, match=r"lies on nfs4 \(filer:/export\).*allow_network = true.*=allow"):
            change()  # type: ignore[operator]
    with pytest.raises(NetworkStorage):
        Trainer.create(Path(path).parent / "new", OnNfs())
    assert not (Path(path).parent / "new").exists()
    after = {file: file.stat().st_mtime_ns for file in Path(path).rglob("*") if file.name not in ("lock", "gate")}
    assert after == before


def test_reading_works(local: Trainer) -> None:
    """By what the packs list: LMDB maps its file, which other hosts would change. A check remembers nothing."""
    view = Trainer(local.store.path, OnNfs())
    assert view.load(str(view.tip())) == {"w": noise(1, 2 * CHUNK)}
    assert isinstance(view.store.index, FooterIndex)
    assert check(view.store, read_data=True).ok and not last_verified(view.store)
    assert not repair(view.store, dry_run=True).needed
    assert collect(view.store, dry_run=True).snapshots == 2


@pytest.mark.parametrize("how", ["config", "environment"])
def test_allowed(local: Trainer, how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever says so writes, still without LMDB; the environment goes for new repositories, too."""
    if how == "config":
        allow(local.store.path)
    else:
        monkeypatch.setenv(VARIABLE, "allow")
        Trainer.create(tmp_path / "new", OnNfs()).commit({"w": b"1"})
    for change in changes(local.store.path):
        change()  # type: ignore[operator]
    view = Trainer(local.store.path, OnNfs())
    assert view.load(view.commit({"w": noise("new")})) == {"w": noise("new")}
    assert isinstance(view.store.index, FooterIndex)
    if how == "environment":
        monkeypatch.setenv(VARIABLE, "yes")
        with pytest.raises(NetworkStorage):
            view.commit({"w": b"1"})


def test_without_any_locks(local: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lustre without its flock option: reading goes on without, writing is refused though it was allowed."""

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    allow(local.store.path)
    monkeypatch.setattr(locks.fcntl, "flock", flock)
    view = Trainer(local.store.path, OnNfs())
    assert view.load(str(view.tip())) == {"w": noise(1, 2 * CHUNK)}
    with pytest.raises(NetworkStorage):
        view.commit({"w": b"1"})
    with pytest.raises(StorageError, match="locks do not work on this file system"):
        Trainer(local.store.path).load(str(local.store.refs.value("refs/heads/main")))


def test_by_the_repo(local: Trainer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """``Repo`` and ``SnapshotManager`` say it, before anything is staged; training goes on."""
    monkeypatch.setattr(FileSystem, "mountinfo", lambda self: OnNfs().mountinfo())
    path = local.store.path
    with pytest.raises(ciuic.NetworkStorage):
        ciuic.Repo(path).commit(extra={"x": 1}, rng=False)
    with pytest.raises(ciuic.NetworkStorage):
        ciuic.Repo(path).commit(extra={"x": 1}, rng=False, wait=False)
    manager = ciuic.SnapshotManager(path, 1)
    assert manager.get_latest_snapshot() is not None
    pending = manager.save(7, extra={"x": 1}, rng=False)
    assert pending is not None and isinstance(pending.exception(), ciuic.NetworkStorage)
    assert manager.failures == 1 and "No snapshot at step 7" in caplog.text
    assert "`ciuic snap` will not reach this run" in caplog.text and caplog.text.count("lies on nfs4") == 2
    assert os.listdir(os.path.join(path, "tmp")) == []
    assert Store(path).network is not None
