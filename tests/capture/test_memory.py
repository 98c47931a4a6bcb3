"""How much memory there is to take, read from files as the kernel writes them."""

import pytest

from ciuic.capture.memory import available_bytes

MIB = 1 << 20


@pytest.fixture
def system(tmp_path):
    """``system(meminfo_mib, memberships, {file: text})`` → what ``available_bytes`` makes of it."""

    def make(meminfo, memberships, files):
        proc, groups = tmp_path / "proc", tmp_path / "cgroup"
        (proc / "self").mkdir(parents=True)
        if meminfo is not None:
            (proc / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable:   {meminfo * 1024} kB\n")
        (proc / "self/cgroup").write_text(memberships)
        for name, text in files.items():
            (groups / name).parent.mkdir(parents=True, exist_ok=True)
            (groups / name).write_text(text)
        return available_bytes(proc, groups)

    return make


def test_the_machine(system):
    """No control group: what the kernel calls available."""
    assert system(700, "0::/\n", {}) == 700 * MIB


def test_a_group_of_version_2_and_the_one_above(system):
    """The tightest counts; file cache that the kernel drops first is free."""
    left = system(
        9000,
        "0::/user/run\n",
        {
            "user/run/memory.max": "max\n", "user/run/memory.current": f"{5 * MIB}\n",
            "user/memory.max": f"{100 * MIB}\n", "user/memory.current": f"{60 * MIB}\n",
            "user/memory.stat": f"anon 1\ninactive_file {20 * MIB}\n",
        },
    )  # fmt: skip
    assert left == 60 * MIB


def test_a_group_of_version_1(system):
    """Hybrid systems list both; "no limit" is a number near 2^63 there."""
    files = {
        "memory/job/memory.limit_in_bytes": f"{300 * MIB}\n", "memory/job/memory.usage_in_bytes": f"{100 * MIB}\n",
        "memory/job/memory.stat": f"total_inactive_file {MIB}\n",
        "memory/memory.limit_in_bytes": "9223372036854771712\n", "memory/memory.usage_in_bytes": "1\n",
    }  # fmt: skip
    assert system(9000, "4:memory:/job\n1:cpu:/\n0::/\n", files) == 201 * MIB


def test_a_container_sees_its_group_at_the_root(system):
    """The path in the membership is the host's and is not there; the root's files are the group's."""
    files = {"memory.max": f"{64 * MIB}\n", "memory.current": f"{60 * MIB}\n"}
    assert system(9000, "0::/../elsewhere/on/the/host\n", files) == 4 * MIB


def test_over_the_limit_is_none_left(system):
    """Never negative."""
    assert system(9000, "0::/\n", {"memory.max": "1\n", "memory.current": "50\n"}) == 0


def test_nothing_tells(system):
    """As on a system without these files."""
    assert system(None, "", {}) is None


def test_this_machine():
    """Some positive number, wherever this runs on Linux."""
    left = available_bytes()
    assert left is None or left > 0
