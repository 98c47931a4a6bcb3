"""Repositories that a stranger has made, opened, logged, shown, diffed, loaded, checked, collected and repaired."""

from __future__ import annotations

import itertools
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from stranger import Stranger, sparse, tensor
from world import Opens, World

from ciuic.codec import Codec, zstd
from ciuic.errors import DamagedData, DamagedRef, InvalidConfig, MissingObject, RepositoryError, UnsupportedFormat
from ciuic.objects.encoding import Tagged, encode
from ciuic.objects.ids import NO_ID, Kind, digest, object_id
from ciuic.objects.tree import TensorEntry
from ciuic.store.pack_format import encode_trailer

DAMAGED, LOG, REFUSED = DamagedData.exit_code, DamagedRef.exit_code, RepositoryError.exit_code
SWEEPERS = ("gc --expire now --trust-clock", "repack")
SCREAM = "\x1b]0;pwned\x07\x1b[2J\x1b[8m\x9b31m\r\x08\u202e\n{}"
"""Titles, cleared screens, hidden text, C1, overwritten lines, reversed text, and a line that looks like JSON."""


@pytest.fixture
def stranger(world: World) -> Stranger:
    return Stranger(world.repository)


# Paths


@pytest.mark.parametrize("part", ["packs", "refs/heads", "tmp", "trash", "quarantine", "index", "HEAD", "lock"])
def test_a_part_that_is_a_link(stranger: Stranger, world: World, opened: Opens, part: str) -> None:
    """Work on it would be work outside: the repository is refused as a whole."""
    there = world.repository / part
    if there.is_dir():
        shutil.rmtree(there)
        there.symlink_to(world.outside / "folder")
    else:
        there.unlink(missing_ok=True)
        there.symlink_to(world.outside / "letter")
    outcome = opened()
    assert {outcome.code(what) for what in ("log", "load", "commit", *SWEEPERS)} == {REFUSED}


def test_a_pack_that_is_a_link(stranger: Stranger, world: World, opened: Opens) -> None:
    """Even to a sound pack: what a link leads to may change."""
    pack = stranger.packs()[0]
    shutil.move(pack, world.outside / pack.name)
    pack.symlink_to(world.outside / pack.name)
    assert opened().code("load") != 0


@pytest.mark.parametrize(
    "file, what",
    [
        *itertools.product(["refs/heads/main", "config.toml", "format"], ["link", "fifo", "folder", "device"]),
        *itertools.product(["generation", "gate", "prunes"], ["fifo", "folder"]),
    ],
)
def test_what_is_no_file(stranger: Stranger, world: World, opened: Opens, file: str, what: str) -> None:
    """A link, a pipe without a writer, a folder, and a device that gives zeros for ever, in place of a small file."""
    path = world.repository / file
    path.unlink(missing_ok=True)
    if what == "link":
        path.symlink_to(world.outside / "letter")
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif os.geteuid() == 0:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    else:
        path.symlink_to("/dev/zero")
    opened()


def test_packs_that_are_no_files(stranger: Stranger, world: World, opened: Opens) -> None:
    """A pipe, a folder and a socket among the packs, under the name of one that is needed and of others."""
    needed = stranger.packs()[0]
    needed.unlink()
    os.mkfifo(needed)
    (world.repository / "packs" / f"{'a' * 64}.pack").mkdir()
    os.mkfifo(world.repository / "packs" / f"{'b' * 64}.pack")
    os.mkfifo(world.repository / "tmp" / "run-x.writer")
    assert opened().code("load") != 0


@pytest.mark.parametrize(
    "file",
    ["..%2F..%2Foutside%2Fletter", "%2e%2e%2fletter", "%2Fetc%2Fpasswd", "a%00b", "%zz", "main%0Ax"],
)
def test_names_of_branches_that_lead_elsewhere(stranger: Stranger, opened: Opens, file: str) -> None:
    """A name is decoded only where encoding it again gives that file; gc takes no other for a branch, and stops."""
    stranger.write_log(f"refs/heads/{file}", f"refs/heads/{file}", stranger.honest)
    outcome = opened()
    assert outcome.code("log") == 0 and file not in outcome.said("branch")
    assert outcome.code("gc --expire now --trust-clock") == LOG


@pytest.mark.parametrize("value", ["../../outside/letter", "/etc/passwd", "..", "a/../../b", "x\x9b31m"])
def test_head_that_leads_elsewhere(stranger: Stranger, opened: Opens, value: str) -> None:
    """HEAD names a branch, and no branch has such a name: there is nothing there."""
    stranger.write_log("HEAD", "HEAD", f"ref:refs/heads/{value}")
    assert opened().code("log --all --json") == 0


def test_a_log_that_is_also_somebody_elses_file(stranger: Stranger, world: World, opened: Opens) -> None:
    """A hard link to a letter. It is shorter than a record, so it was taken for one that was torn, and the first commit
    wrote over it."""
    log = world.repository / "refs/heads/main"
    log.unlink()
    os.link(world.outside / "letter", log)
    outcome = opened()
    assert outcome.code("commit") == LOG and "hard link" in outcome.said("commit")


def test_files_for_exports_are_chosen_by_the_person(stranger: Stranger, world: World, opened: Opens) -> None:
    """Names of tensors that look like paths are names in the file."""
    (chunk,) = stranger.objects((Kind.CHUNK, b"1234"))
    names = ("../../outside/letter", "/etc/passwd", "a/../b", "..")
    stranger.snapshot(stranger.tree(*([name, tensor([4], 4096, chunk)] for name in names)))
    outcome = opened()
    assert outcome.code("load") == 0
    assert sorted(os.listdir(world.scratch)) == ["out.pt", "out.safetensors"]


def test_a_link_where_an_export_goes(stranger: Stranger, world: World, opened: Opens) -> None:
    """With --force the link is replaced, and not what it leads to."""
    (chunk,) = stranger.objects((Kind.CHUNK, b"1234"))
    stranger.snapshot(stranger.tree(["w", tensor([4], 4096, chunk)]))
    for name in ("out.pt", "out.safetensors"):
        (world.scratch / name).symlink_to(world.outside / "letter")
    outcome = opened()
    assert not (world.scratch / "out.safetensors").is_symlink() and outcome.code("load") == 0


# Packs


def test_a_pack_of_another_repository(stranger: Stranger, tmp_path: Path, opened: Opens) -> None:
    """Sound, and not ours: its objects are not taken for ours."""
    other = Stranger(tmp_path / "other")
    for pack in other.packs():
        shutil.copy(pack, stranger.path / "packs")
    outcome = opened()
    assert outcome.code("load") == 0 and outcome.code("fsck --read-data") != 0


@pytest.mark.parametrize("claim", ["rows", "offset", "length", "everything"])
def test_a_footer_that_claims_billions_of_rows(stranger: Stranger, world: World, opened: Opens, claim: str) -> None:
    """Of a file of a terabyte with nothing in it: what it says it has is not allocated."""
    path = world.repository / "packs" / "new"
    size = 1 << 40
    offset, length = {
        "rows": (size - 64 - 40, 40),
        "offset": ((1 << 64) - 1, 40),
        "length": (64, (1 << 64) - 1),
        "everything": (64 + size // 2, size // 2 - 128),
    }[claim]
    footer = b"ciuicftr" + (1).to_bytes(4, "little") + bytes(4) + stranger.trainer.store.repository_id
    footer += (1 << 60).to_bytes(8, "little")
    trailer = encode_trailer(0, footer)[:24] + digest(footer)
    trailer = trailer[:8] + offset.to_bytes(8, "little") + length.to_bytes(8, "little") + trailer[24:]
    trailer += digest(trailer)[:8]
    sparse(path, size)
    with path.open("r+b") as file:
        file.seek(size - 64)
        file.write(trailer)
        if claim == "rows":
            file.seek(offset)
            file.write(footer)
    path.rename(path.with_name(f"{digest(footer).hex()}.pack"))
    # A person who repairs has it scanned, and that takes as long as a file is: here it is not let get so far.
    os.truncate(path.with_name(f"{digest(footer).hex()}.pack"), size) if claim != "rows" else None
    shutil.rmtree(world.repository / "index")
    (world.repository / "index").mkdir()
    found = path.with_name(f"{digest(footer).hex()}.pack")
    store = stranger.trainer.store
    with store.shared(), pytest.raises(DamagedData):
        _ = store.pack(found.stem).rows
    found.unlink()
    assert opened().code("load") == 0


@pytest.mark.parametrize("length", [1 << 63, (1 << 64) - 1, (1 << 26) + 1])
def test_records_that_claim_more_than_there_is(stranger: Stranger, opened: Opens, length: int) -> None:
    """A raw length that no writer makes, sealed with a checksum that holds."""
    stranger.record(digest(b"x"), Codec.ZSTD, zstd.compress(b"x" * 100), length, NO_ID, 0)
    stranger.snapshot(stranger.tree(["w", tensor([100], 4096, digest(b"x"))]))
    assert opened().code("load") in (DAMAGED, MissingObject.exit_code)


def test_bytes_that_unfold(stranger: Stranger, opened: Opens) -> None:
    """64 MiB of zeros in six kilobytes, 2^14 times over: a tensor of a terabyte. It is listed, checked and collected;
    who asks for its bytes is told that there is no memory, or no disk, for them."""
    raw = bytes(1 << 26)
    stranger.record(digest(raw), Codec.ZSTD, zstd.compress(raw), len(raw), NO_ID, 0)
    stranger.snapshot(stranger.tree(["w", tensor([1 << 40], 1 << 26, digest(raw) * (1 << 14))]))
    outcome = opened()
    assert "1.00 TiB" in outcome.said("ls -r")
    assert outcome.code("fsck --read-data") == outcome.code("gc") == 0
    assert "no memory" in outcome.said("load")


def test_a_tree_that_unfolds(stranger: Stranger, opened: Opens) -> None:
    """300 MB of nulls, some kilobytes long: no writer makes so many items."""
    value = encode({"kind": "dict", "entries": []})
    raw = value.replace(b"\x80", b"\x9b" + (300_000_000).to_bytes(8, "big")) + b"\xf6" * 300_000_000
    (root,) = stranger.objects((Kind.TREE, raw), packed=True)
    del raw
    stranger.snapshot(root)
    assert opened().code("load") == DAMAGED


def test_a_value_that_unfolds(stranger: Stranger, opened: Opens) -> None:
    """A list of 2^36 nulls, of which every chunk is the same one."""
    raw = b"\xf6" * (1 << 26)
    stranger.record(digest(raw), Codec.ZSTD, zstd.compress(raw), len(raw), NO_ID, 0)
    blob = {"blob": {"length": 1 << 36, "chunk": 1 << 26, "chunks": digest(raw) * (1 << 10)}}
    stranger.snapshot(stranger.tree(["w", blob]))
    assert opened().code("ls -r") == DAMAGED


# Trees


@pytest.mark.parametrize("kind", ["dict", "module"])
@pytest.mark.parametrize("depth", [195, 400])
def test_trees_deep_in_one_another(stranger: Stranger, opened: Opens, kind: str, depth: int) -> None:
    """As deep as is read, and deeper. Neither ends with Python's stack."""
    (chunk,) = stranger.objects((Kind.CHUNK, b"1234"))
    stranger.snapshot(stranger.chain(depth, kind=kind, w=TensorEntry("uint8", (4,), 4096, (chunk,))))
    outcome = opened()
    assert outcome.code("load") == (0 if depth < 200 else DAMAGED)


@pytest.mark.parametrize(
    "entry",
    [
        {"blob": {"length": 1 << 63, "chunk": 1, "chunks": b""}},
        tensor([1 << 62], 1, b""),
        tensor([1 << 32, 1 << 32], 4096, b""),
        tensor([4], 1 << 62, bytes(32)),
        tensor([4], 4096, bytes(32), tie=["nowhere", "at", "all"]),
        tensor([4], 4096, bytes(32), array="numpy.generic"),
        {"value": 1 << 8192},
        {"value": Tagged("builtins.exec", ("import os",))},
        {"value": Tagged("dict", ([], 1))},
    ],
)
def test_entries_that_no_writer_makes(stranger: Stranger, opened: Opens, entry: dict[str, object]) -> None:
    """Lengths of 2^63, ties that lead nowhere, integers that Python does not print, types that are none."""
    (chunk,) = stranger.objects((Kind.CHUNK, b"1234"))
    if entry.get("tensor", {}).get("chunks"):  # type: ignore[attr-defined]
        entry["tensor"]["chunks"] = chunk  # type: ignore[index]
    try:
        root = stranger.tree(["w", entry], kind="dict")
    except ValueError:  # our encoder does not write it: by hand
        raw = encode({"kind": "dict", "entries": [["w", {"value": 0}]]})
        (root,) = stranger.objects((Kind.TREE, raw[:-1] + b"\xc2\x59\x06\xfa\x01" + bytes(1785)))
    stranger.snapshot(root, "extra")
    opened()


@pytest.mark.parametrize("scales, axis", [(3, 0), (2, 5), (0, 0)])
def test_quantizers_that_do_not_fit(stranger: Stranger, opened: Opens, scales: int, axis: int) -> None:
    """As many scales as channels, or it is no quantised tensor: torch's own error escaped."""
    (chunk,) = stranger.objects((Kind.CHUNK, b"1234"))
    channels = ("scheme", "per_channel_affine", "scale", [0.5] * scales, "zero_point", [1 << 40] * scales, "axis", axis)
    stranger.snapshot(stranger.tree(["w", tensor([2, 2], 4096, chunk, "qint8", quantizer=Tagged("dict", channels))]))
    assert opened().code("load") == DAMAGED


# What snapshots and logs say


def test_nothing_stored_steers_the_terminal(stranger: Stranger, opened: Opens) -> None:
    """In a message, in names of metrics, settings, components, versions, parts, tensors and ties, in the completeness
    list, in prunes, in the actor and action of a log, and in a branch, whose name may hold what is not ASCII."""
    (chunk,) = stranger.objects((Kind.CHUNK, b"1234"))
    entries = ([SCREAM, tensor([4], 4096, chunk)], ["tied", tensor([4], 4096, chunk, tie=[SCREAM])],
               ["w", {"value": SCREAM}])  # fmt: skip
    root = stranger.tree(*entries, kind="dict")
    for step in range(2):
        stranger.honest = stranger.snapshot(
            root if step else stranger.tree(["tied", tensor([4], 4096, chunk)], kind="dict"),
            f"model{SCREAM}" if step else "model",
            step=step,
            message=SCREAM,
            metrics={SCREAM: 0.5 + step},
            config={SCREAM: SCREAM, "more": {SCREAM: [SCREAM, step]}},
            contains=(SCREAM,),
            raw_bytes={SCREAM: 1},
            versions={SCREAM: SCREAM},
            cost={SCREAM: 1.0},
            storage={SCREAM: {SCREAM: (2, 1)}},
        )
    stranger.snapshot(root, versions={"ciuic": SCREAM}, message=SCREAM)
    name = "x\x9b31m\u202ey"
    file, actor = "x%C2%9B31m%E2%80%AEy", "b\x9b2J\x1b]0;x\x07"
    stranger.write_log(f"refs/heads/{name}", f"refs/heads/{file}", stranger.honest, "a\x9b2J\x1b[8m", actor)
    stranger.write_log(f"refs/tags/{name}", f"refs/tags/{file}", stranger.honest)
    stranger.write_log("prunes", "prunes", stranger.honest, "prune a\x9b2J\x1b[8m")
    outcome = opened()
    assert outcome.code("log") == outcome.code("branch") == 0
    assert r"\x9b31m\u202ey" in outcome.said("branch") and r"\x1b]0;pwned\x07" in outcome.said("log")


@pytest.mark.parametrize(
    "said",
    [
        {"step": 1 << 70, "epoch": -(1 << 70)},
        {"raw_bytes": {"model": 1 << 62, "x": 1}, "added_bytes": 1 << 62},
        {"raw_bytes": {"model": 1 << 5000}},
        {"added_bytes": -1},
        {"metrics": {"loss": float("nan"), "a": float("inf"), "b": -float("inf"), "c": 1e308}},
        {"config": {str(number): number for number in range(5000)}},
        {"config": {"big": 1 << 8000, "deep": [[[[[[[[]]]]]]]]}},
        {"cost": {"call": 1e308, "copy": 1e308}},
        {"parents": tuple(digest(bytes([number % 256, number // 256])).hex() for number in range(2_000))},
        {"message": "x" * (1 << 22)},
    ],
)
def test_snapshots_that_say_too_much(stranger: Stranger, opened: Opens, said: dict[str, object]) -> None:
    """Sizes, steps and times beyond all bounds, thousands of parents that are nowhere, an integer of 2,400 digits."""
    from dataclasses import replace

    from stranger import WRITTEN

    from ciuic.objects.snapshot import encode_snapshot

    try:
        raw = encode_snapshot(replace(WRITTEN, **said))  # type: ignore[arg-type]
    except ValueError:
        raw = encode_snapshot(replace(WRITTEN, message="z"))
    stranger.point(*stranger.objects((Kind.SNAPSHOT, raw)))
    opened()


def test_bases_in_a_circle_and_chains_without_end(stranger: Stranger, opened: Opens) -> None:
    """Two chunks that rest on each other, one that rests on itself, and a chain of all 255 depths and one more."""
    a, b, c = (digest(each) for each in (b"a", b"b", b"c"))
    for id, base, depth in ((a, b, 2), (b, a, 1), (c, c, 1)):
        stranger.record(id, Codec.DELTA, b"\2" * 40, 16, base, depth)
    with stranger.session() as session:
        below = digest(b"bottom")
        session.add(Kind.CHUNK, below, b"bottom", codec=Codec.RAW, raw_length=6)
    for depth in (*range(1, 256, 16), 255):
        id = digest(bytes([depth]))
        stranger.record(id, Codec.DELTA, b"\2" * 40, 16, below, depth)
        below = id
    entries = ([name, tensor([16], 4096, id)] for name, id in (("a", a), ("c", c), ("d", below), ("w", b)))
    stranger.snapshot(stranger.tree(*entries))
    outcome = opened()
    assert outcome.code("load") == DAMAGED and outcome.code("fsck --read-data") != 0


def test_a_recipe_of_itself(stranger: Stranger, opened: Opens) -> None:
    """A chunk that is the cast of itself, and one whose recipe is a tree. gc, and the commit after, ended with a
    KeyError: what rests on itself was taken for what had been looked at."""
    from ciuic.objects.recipe import Recipe, encode_recipe

    a = digest(b"a")
    raw = encode_recipe(Recipe("cast", (a,) * 64, {"from": "float32", "to": "bfloat16", "skip": 0}))
    (recipe,) = stranger.objects((Kind.RECIPE, raw))
    stranger.record(a, Codec.DERIVED, b"", 1 << 26, recipe, 1)
    stranger.record(digest(b"b"), Codec.DERIVED, b"", 16, stranger.tree(), 1)
    entries = ([name, tensor([length], 1 << 26, id)] for name, id, length in (
        ("w", a, 1 << 26), ("x", digest(b"b"), 16)))  # fmt: skip
    stranger.snapshot(stranger.tree(*entries))
    assert opened().code("load") == DAMAGED


# Small files


@pytest.mark.parametrize(
    "text",
    [
        "chunk_size = " + "9" * 5000,
        "chunk_size = 1180591620717411303424",
        "pack_limit = 1e300",
        "keep_records = -1",
        "expire_days = inf",
        "chunk_size = true",
        "a = " + "[" * 5000,
        "[chunk_size]\nx = 1",
        "\0\xff",
        'x = "' + SCREAM.replace("\n", "\\n") + '"',
        '"\\u001b[2J" = 1',
        "x = 1\n" * (1 << 18),
    ],
)
def test_absurd_settings(stranger: Stranger, world: World, opened: Opens, text: str) -> None:
    """Who needs the settings is told what is wrong with them; who reads does not need them."""
    (world.repository / "config.toml").write_text(text, encoding="latin-1", errors="replace")
    outcome = opened()
    assert outcome.code("log") == 0
    assert outcome.code("commit") in (InvalidConfig.exit_code, 60)


@pytest.mark.parametrize("line", ["ciuic 2", "ciuic 99999999999999999999", "features deltas telepathy"])
def test_a_format_from_the_future(stranger: Stranger, world: World, opened: Opens, line: str) -> None:
    """Refused before anything else is read."""
    lines = (world.repository / "format").read_text().splitlines()
    lines[0 if line.startswith("ciuic") else 2] = line
    (world.repository / "format").write_text("\n".join(lines) + "\n")
    assert opened().codes == {UnsupportedFormat.exit_code}


@pytest.mark.parametrize("file", ["format", "config.toml", "generation", "index/stamp", "index/verified", "prunes"])
def test_small_files_of_a_terabyte(stranger: Stranger, world: World, opened: Opens, file: str) -> None:
    """With nothing in it; none is read as a whole."""
    sparse(world.repository / file, 1 << 40)
    opened()


def test_a_hostile_index(stranger: Stranger, world: World, opened: Opens) -> None:
    """LMDB's file full of anything, its lock file a link to a letter, and a stamp of another file: it is built anew,
    and what the link leads to stays."""
    index = world.repository / "index"
    stranger.trainer.tip()
    data = (index / "data.mdb").read_bytes()
    (index / "data.mdb").unlink()
    (index / "data.mdb").write_bytes(data[:4096] + b"\xff" * 9000)
    for name in ("lock.mdb", "verified"):
        (index / name).unlink(missing_ok=True)
        (index / name).symlink_to(world.outside / "letter")
    outcome = opened()
    assert outcome.code("load") == outcome.code("commit") == 0


def test_an_index_of_links(stranger: Stranger, world: World, opened: Opens) -> None:
    """Each file of it leads elsewhere."""
    for name in ("data.mdb", "lock.mdb", "stamp", "lock"):
        path = world.repository / "index" / name
        path.unlink(missing_ok=True)
        path.symlink_to(world.outside / "letter")
    assert opened().code("load") == 0


def test_logs_that_take_long_to_save(stranger: Stranger, world: World, opened: Opens) -> None:
    """A megabyte of noise as a log. repair looked for a wrong bit in each of its slots, for minutes."""
    (world.repository / "refs/heads/noise").write_bytes(os.urandom(1 << 20))
    assert opened().code("log") == LOG


def test_records_that_overlap(stranger: Stranger, world: World, opened: Opens) -> None:
    """A file of 3,000 sound headers, each of which claims a megabyte that follows: repair read them all, for hours."""
    from ciuic.store.pack_format import RecordHeader, encode_record_header, pack_header

    header = RecordHeader(Kind.CHUNK, 0, 1, 0, 1 << 20, 1 << 20, digest(b"x"), NO_ID, digest(b"no"))
    data = pack_header(stranger.trainer.store.repository_id) + encode_record_header(header) * 24_000
    (world.repository / "packs" / f"{digest(b'y').hex()}.pack").write_bytes(data + bytes(64))
    assert opened().cpu_s < 60


# Code


def test_modules_beside_the_repository_are_not_imported(stranger: Stranger, world: World, tmp_path: Path) -> None:
    """The command works in the stranger's folder, where files wait that have the names of modules."""
    trap = "import os\nopen(os.environ['TRAP'], 'w').write(__name__)\n"
    for name in ("torch", "ciuic", "lmdb", "click", "blake3", "sitecustomize", "usercustomize", "numpy", "tomllib"):
        (world.repository / f"{name}.py").write_text(trap)
        (world.repository / name).mkdir()
        (world.repository / name / "__init__.py").write_text(trap)
    script = tmp_path / "ciuic-command"
    script.write_text("import sys\nfrom ciuic.cli import main\nsys.exit(main())\n")
    root = str(Path(__file__).parent.parent.parent)
    for words in (["log"], ["ls", "-r"], ["fsck"], ["doctor"]):
        done = subprocess.run(
            [sys.executable, str(script), *words],
            cwd=world.repository,
            env={**os.environ, "TRAP": str(tmp_path / "trap"), "PYTHONPATH": root},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    assert not (tmp_path / "trap").exists()


def test_a_pickle_is_bytes(stranger: Stranger, world: World, opened: Opens) -> None:
    """As a chunk, as a plain value, and as a tree: nothing looks at what it means."""
    pickle = b"cposix\nsystem\n(S'touch pwned'\ntR."
    (chunk,) = stranger.objects((Kind.CHUNK, pickle))
    entries = (["w", tensor([len(pickle)], 4096, chunk)], ["v", {"value": pickle}])
    (tree,) = stranger.objects((Kind.TREE, pickle))
    stranger.snapshot(stranger.tree(*entries, ["t", {"tree": tree}], kind="dict"))
    outcome = opened()
    assert outcome.code("load") == DAMAGED and not (world.scratch / "pwned").exists()
    assert object_id(Kind.TREE, pickle) == tree
