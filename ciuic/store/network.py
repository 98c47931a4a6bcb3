"""File systems that several hosts share: there a lock may hold on one host only, or not at all."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

VARIABLE = "CIUIC_NETWORK_STORAGE"
ALLOW = "allow"
NETWORK = {
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs"),
    *("orangefs", "pvfs2", "panfs", "wekafs", "daos"),
}
NETWORK_BY_FUSE = {
    *("sshfs", "s3fs", "gcsfuse", "goofys", "rclone", "mount-s3", "mountpoint-s3", "blobfuse", "blobfuse2", "juicefs"),
    *("glusterfs", "ceph", "ceph-fuse", "davfs", "smbnetfs", "hdfs", "dbfs", "moosefs", "lizardfs", "seaweedfs"),
    *("cvmfs2", "dfuse", "alluxio-fuse", "objectivefs", "curlftpfs"),
}


class Mount(NamedTuple):
    """Where a file system hangs, of which kind it is, and what it comes from."""

    point: str
    kind: str
    source: str

    @property
    def shared(self) -> bool:
        """Whether other hosts may have it, too."""
        if self.kind.startswith("fuse."):
            return self.kind.removeprefix("fuse.") in NETWORK_BY_FUSE
        # The root of a sandbox comes by 9p from its own host, and nobody else has it.
        return self.kind in NETWORK and not (self.kind == "9p" and self.point == "/")


def mount_of(mountinfo: str, path: str) -> Mount | None:
    """On which mount an absolute path without links lies, by the text of ``/proc/self/mountinfo``; None if unknown."""
    found: Mount | None = None
    for line in mountinfo.splitlines():
        mount, _, file_system = line.partition(" - ")
        fields, kinds = mount.split(" "), file_system.split(" ")
        if len(fields) < 5 or len(kinds) < 2:
            continue
        point = _plain(fields[4])
        above = path == point or path.startswith(point.rstrip("/") + "/")
        if above and (found is None or len(point) >= len(found.point)):  # of two in one place the later lies on top
            found = Mount(point, kinds[0], _plain(kinds[1]))
    return found


def _plain(text: str) -> str:
    """Blanks and the like are written as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def allowed_by_environment() -> bool:
    """Whether whoever runs this program has said that locks work there, or that nobody else writes."""
    return os.environ.get(VARIABLE) == ALLOW


def refusal(mount: Mount, path: str) -> str:
    """Why nothing is written there, and what to do."""
    return (
        f"{path} lies on {mount.kind} ({mount.source}), a network file system: locks may not hold between its hosts, "
        "and two that write at once would destroy what the other one saved. Reading works. Keep the repository on a "
        "local disk and copy it; or, where only one host writes, set `allow_network = true` in its config.toml, or "
        f"{VARIABLE}={ALLOW} in the environment."
    )
