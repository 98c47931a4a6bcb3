"""Does everything that a person may do with a repository, or with a file to import, and says what came of it.

A server: it has imported all that is slow, forks for each request, and the child has little memory, little time and a
small disk. What the interpreter does that a repository must never lead to (starting programs, connecting, finding a
class for a pickle, writing elsewhere) is reported by an audit hook.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

import ciuic
from ciuic.cli import main
from ciuic.errors import CiuicError
from ciuic.objects import extent
from ciuic.objects.state_tree import Tensor, walk
from ciuic.state.tensors import to_torch

ROOM = 3 << 30
"""Bytes of address space beyond what the server has."""
CPU_S = 100
LARGEST_FILE = 64 << 20
READING = (
    ("log",), ("log", "--all", "--json"), ("show",), ("show", "--json"), ("ls", "-r"), ("ls", "-r", "--json"), ("ls",),
    ("diff", "HEAD", "HEAD"), ("diff", "--limit", "0"), ("diff", "--json"), ("stats",), ("branch",),
    ("branch", "--json"), ("tag",), ("reflog",), ("reflog", "main"), ("reflog", "main", "--json"), ("reflog", "HEAD"),
    ("fsck", "--read-data"), ("fsck", "--json"), ("doctor",), ("gc", "--dry-run"), ("repair",), ("repair", "--json"),
    ("cat", "HEAD:model/w"), ("cat", "HEAD:extra"), ("show", "HEAD~1"), ("checkout", "main"),
)  # fmt: skip
CHANGING = (
    ("gc", "--expire", "now", "--trust-clock"), ("repack",), ("repack", "--flatten", "HEAD"), ("repair", "--yes"),
    ("fsck",), ("log", "--all"),
)  # fmt: skip
FORBIDDEN = ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "socket.connect", "pickle.find_class")
WRITING = {
    "os.rename": (0, 1), "os.remove": (0,), "os.mkdir": (0,), "os.rmdir": (0,), "os.link": (0, 1), "os.symlink": (1,),
    "os.truncate": (0,), "os.chmod": (0,), "os.utime": (0,), "shutil.rmtree": (0,),
}  # fmt: skip
"""Event → which of its arguments are paths."""
CHANGES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Watch:
    """What happened that must not."""

    def __init__(self, *inside: str) -> None:
        self.inside = [os.path.realpath(folder) + os.sep for folder in inside]
        self.seen: list[str] = []
        sys.addaudithook(self.hook)

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in FORBIDDEN:
            self.seen.append(f"{event} {arguments!r:.200}")
        elif event == "open" and isinstance(arguments[0], str) and arguments[2] & CHANGES:
            self.judge(event, arguments[0])
        elif event in WRITING:
            for number in WRITING[event]:
                self.judge(event, arguments[number])

    def judge(self, event: str, path: Any) -> None:
        # The last part may be a link that is itself removed or renamed; what leads to it may be none.
        folder, name = os.path.split(os.path.abspath(os.fsdecode(path)))
        real = os.path.join(os.path.realpath(folder), name)
        if not (real + os.sep).startswith(tuple(self.inside)) and real != os.devnull:
            self.seen.append(f"{event} {real}")


def command(*words: str) -> dict[str, Any]:
    """One call of the command line, as its process would make it."""
    out, errors = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in "oe")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        code = main(words)
    texts = [stream.buffer.getvalue().decode("utf-8", "replace") for stream in (out, errors)]  # type: ignore[attr-defined]
    return {"what": " ".join(words[2:]), "code": code, "out": texts[0], "err": texts[1]}


def called(name: str, action: Callable[[], object]) -> dict[str, Any]:
    """One call of the library."""
    try:
        return {"what": name, "code": 0, "out": str(action())[:2000], "err": ""}
    except CiuicError as error:
        return {"what": name, "code": error.exit_code, "out": "", "err": str(error)}
    except BaseException:
        return {"what": name, "code": 1, "out": "", "err": f"This is a bug in ciuic: {traceback.format_exc()}"}


def loaded(path: str) -> int:
    """Every tensor brought to memory, one after the other."""
    count = 0
    for node in ciuic.Repo(path).components("HEAD").values():
        for _, leaf in walk(node):
            if isinstance(leaf, Tensor):
                to_torch(leaf)
                count += 1
    return count


def whole_repository(path: str, scratch: str) -> Iterator[dict[str, Any]]:
    at = ("--repo", path)
    for words in READING:
        yield command(*at, *words)
    yield command(*at, "--color", "always", "log")
    for suffix, component in (("safetensors", "model"), ("pt", "all")):
        yield command(*at, "export", "HEAD", f"{scratch}/out.{suffix}", "--component", component, "--force")
    yield called("load", lambda: loaded(path))
    yield called("lazy", lambda: str(ciuic.Repo(path).load("HEAD"))[:100])
    yield called("restore", lambda: ciuic.Repo(path).restore("HEAD", model=torch.nn.Linear(2, 2)))
    yield called("newest_intact", lambda: ciuic.Repo(path).newest_intact())
    yield called("commit", lambda: ciuic.Repo(path).commit(extra={"w": torch.ones(3)}, step=1, rng=False))
    for words in CHANGING:
        yield command(*at, *words)
    yield called("gc", lambda: ciuic.Repo(path).gc(expire=timedelta(0), trust_clock=True))
    yield called("commit again", lambda: ciuic.Repo(path).commit(extra={"w": torch.ones(3)}, step=2, rng=False))


def import_of(file: str, path: str) -> Iterator[dict[str, Any]]:
    at = ("--repo", path)
    yield command(*at, "import", file, "--dry-run")
    yield command(*at, "import", file, "--to", "extra")
    for words in READING[:8]:
        yield command(*at, *words)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """In the child: everything that was done, what must not have happened, and the memory that it took."""
    os.chdir(request["scratch"])
    if request["most_leaves"]:  # what is counted by the million takes half a minute a command
        extent.MOST_LEAVES = request["most_leaves"]
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    room = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))
    watch = Watch(request["repository"], request["scratch"])
    if "file" in request:
        steps = list(import_of(request["file"], request["repository"]))
    else:
        steps = list(whole_repository(request["repository"], request["scratch"]))
    return {"steps": steps, "forbidden": watch.seen}


def serve() -> None:
    torch.set_num_threads(1)  # nothing may have threads when this forks
    replies = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(reading)
            with os.fdopen(writing, "w") as pipe:
                try:
                    json.dump(answer(json.loads(line)), pipe)
                except BaseException:
                    json.dump({"steps": [], "forbidden": [], "died": traceback.format_exc()}, pipe)
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            said = pipe.read()
        _, status, usage = os.wait4(child, 0)
        result = json.loads(said) if said else {"steps": [], "forbidden": [], "died": f"wait status {status}"}
        result |= {"peak_kib": usage.ru_maxrss, "cpu_s": usage.ru_utime + usage.ru_stime}
        print(json.dumps(result), file=replies, flush=True)
    replies.close()


if __name__ == "__main__":
    serve()
