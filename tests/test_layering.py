"""The house: a room imports only from rooms below it, and torch, files and the terminal stay in their rooms."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "ciuic"
RANKS = {
    "errors": 0, "daemon_thread": 0, "amounts": 0, "heartbeat": 0, "notices": 0,
    "thread_pool": 1,
    "objects": 1, "codec": 1,
    "store": 2,
    "commit": 3, "restore": 3, "state": 3,
    "history": 4, "retention": 4, "interchange": 4, "capture": 4,
    "writer": 5,
    "supervised": 5,
    "background": 6, "doctor": 6,
    "saving": 7,
    "repo": 8, "triggers": 8, "retrying": 8, "batches": 8, "monitoring": 8,
    "snapshot": 9,
    "testing": 9,
    "demo": 10, "supervisor": 10,
    "cli": 11,
    "__init__": 12, "__main__": 12,
}  # fmt: skip
HEAVY_ROOMS = {"state", "capture", "interchange", "demo", "batches"}
NUMPY_ROOMS = {"codec"}
HEAVY_FILES = {
    "history/diff.py", "history/leaves.py", "history/module_changes.py", "history/tensor_change.py",
    "history/tensor_statistics.py",
}  # fmt: skip
FILE_CALLS = {
    *("open", "mkdir", "makedirs", "rename", "replace", "link", "symlink", "unlink", "remove", "rmdir", "removedirs"),
    *("truncate", "ftruncate", "write", "writev", "pwrite", "pread", "read", "fsync", "fdatasync", "sync", "chmod"),
    *("listdir", "scandir", "walk", "mkfifo", "utime", "copy_file_range", "sendfile"),
}
FILES = sorted(ROOT.rglob("*.py"))


def room(path):
    """The room of a file, and a module's room by its dotted name."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(tree):
    """(dotted module, line) of every import, those inside functions and under TYPE_CHECKING too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a name comes from"
            if node.module == "ciuic":
                for alias in node.names:
                    yield f"ciuic.{alias.name}", node.lineno
            else:
                yield node.module, node.lineno


def parsed():
    return [(path, ast.parse(path.read_text(encoding="utf-8"))) for path in FILES]


def target_room(module):
    """The room that ``ciuic.x.y`` belongs to; None for what is not ours. Public names come through ``ciuic``."""
    parts = module.split(".")
    if parts[0] != "ciuic":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in RANKS else "__init__"


def test_every_room_has_a_rank():
    """A new room is put in its place before it is filled."""
    assert {room(path) for path in FILES} <= set(RANKS)


def test_imports_go_down_or_stay_in_the_room():
    """No room knows one of its own rank or above."""
    wrong = []
    for path, tree in parsed():
        here = room(path)
        for module, line in imports(tree):
            there = target_room(module)
            if there is None or there == here or RANKS[there] < RANKS[here]:
                continue
            if there == "__init__" and module == "ciuic" and RANKS[here] >= RANKS["saving"]:
                continue  # the public face and the version
            wrong.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
    assert wrong == []


@pytest.mark.parametrize("package", ["torch", "numpy", "safetensors"])
def test_tensors_stay_in_their_rooms(package):
    """Only ``state``, ``capture``, the numeric part of ``history``, ``interchange`` and ``demo`` know both; ``codec``
    knows numpy."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path, tree in parsed()
        for module, line in imports(tree)
        if module.split(".")[0] == package
        and room(path) not in HEAVY_ROOMS
        and path.relative_to(ROOT).as_posix() not in HEAVY_FILES
        and not (path.name == "saving.py" and package == "torch")  # the version that a snapshot records
        and not (room(path) in NUMPY_ROOMS and package == "numpy")  # arithmetic on bytes
    ]
    assert wrong == []


def test_codecs_import_numpy_when_it_is_needed():
    """What reads raw and zstandard records, or only names codecs, starts without numpy."""
    for name in ("__init__", "zstd", "rules"):
        tree = ast.parse((ROOT / "codec" / f"{name}.py").read_text(encoding="utf-8"))
        inside = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        deferred = {id(each) for function in inside for each in ast.walk(function)}
        for node in ast.walk(tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)) and id(node) not in deferred:
                assert not {module.split(".")[0] for module, _ in imports(node)} & {"numpy", "zstandard"}, name


def calls(tree):
    """(dotted name, line) of everything that is called by a plain or dotted name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func) if isinstance(node.func, (ast.Name, ast.Attribute)) else ""
            yield name, node.lineno


def is_file_effect(name):
    head, _, last = name.rpartition(".")
    return (
        name in ("open", "io.open")
        or (head == "os" and last in FILE_CALLS)
        or head in ("shutil", "tempfile", "mmap", "glob")
        or last in ("write_text", "write_bytes", "read_text", "read_bytes", "touch")
    )


def test_file_effects_go_through_one_seam():
    """Below the interchange, only ``store/fs.py`` touches files; LMDB's own writing is the stated exception."""
    rooms = {"objects", "codec", "store", "commit", "restore", "state", "history", "errors"}
    rooms |= {"saving", "repo", "snapshot"}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} calls {name}"
        for path, tree in parsed()
        if room(path) in rooms and path != ROOT / "store" / "fs.py"
        for name, line in calls(tree)
        if is_file_effect(name)
    ]
    assert wrong == []


def test_only_the_command_line_knows_the_terminal_and_the_environment():
    """No print, no click or rich, no environment variable anywhere below; the demo is a program of its own.

    A cluster says in the environment of every job that its network file system will do: one file asks. A supervisor
    starts a command that it knows nothing of, and speaks through the environment to the manager in it: one file hears.
    """
    exceptions = {("store/network.py", "os.environ"), ("supervised.py", "os.environ")}
    wrong = []
    for path, tree in parsed():
        if room(path) in ("cli", "demo", "__main__"):
            continue
        where = path.relative_to(ROOT)
        wrong += [f"{where}:{line} calls {name}" for name, line in calls(tree) if name in ("print", "input", "exit")]
        wrong += [
            f"{where}:{line} imports {module}"
            for module, line in imports(tree)
            if module.split(".")[0] in ("click", "rich", "argparse", "curses", "readline")
        ]
        wrong += [
            f"{where}:{node.lineno} uses {ast.unparse(node)}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and (where.as_posix(), ast.unparse(node)) not in exceptions
            and ast.unparse(node) in ("os.environ", "os.getenv", "sys.stdout", "sys.stderr", "sys.stdin", "sys.argv")
        ]
    assert wrong == []


def test_nothing_is_ever_unpickled():
    """No module of ours imports pickle or a relative; torch's own loader is held to ``weights_only``."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path, tree in parsed()
        for module, line in imports(tree)
        if module.split(".")[0] in ("pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib")
    ]
    for path, tree in parsed():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                safe = any(each.arg == "weights_only" and ast.unparse(each.value) == "True" for each in node.keywords)
                wrong += (
                    [] if safe else [f"{path.relative_to(ROOT)}:{node.lineno} torch.load without weights_only=True"]
                )
    assert wrong == []


def test_modules_of_tests_have_names_of_their_own():
    """pytest imports them by their bare names, so two of one name in folders without ``__init__`` hide each other."""
    tests = Path(__file__).parent
    loose = [path for path in tests.rglob("*.py") if not (path.parent / "__init__.py").exists()]
    names = [path.name for path in loose if path.name not in ("conftest.py", "__main__.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []
