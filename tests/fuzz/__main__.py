"""Fuzz for as long as told: ``python tests/fuzz --seconds 600 [TARGET …]``; ``make fuzz SECONDS=600`` is the same.

What reaches new lines is kept in ``.fuzz/corpus/TARGET/`` and is where the next run starts from. What is found is
written to ``.fuzz/found/``, and printed as a line for ``tests/fuzz/found.txt``, which makes it a test.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import warnings
from pathlib import Path

from ciuic.objects.ids import digest
from ciuic.store.store import Store

sys.path.insert(0, str(Path(__file__).parent))
from engine import Finding, fuzz
from targets import NAMES, golden_repository, prepared, seeds

FOLDER = Path(__file__).parent.parent.parent / ".fuzz"
ROOM = 6 << 30
"""Bytes of address space: what an input merely claims is not to be had."""
ROUND_S = 20.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0, help="of all targets together; 600")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"all by default: {', '.join(NAMES)}")
    options = parser.parse_args()
    unknown = sorted(set(options.targets) - set(NAMES))
    if unknown:
        parser.error(f"no target {', '.join(unknown)}")
    resource.setrlimit(resource.RLIMIT_AS, (ROOM, ROOM))
    warnings.simplefilter("error")
    names = list(options.targets) or list(NAMES)
    corpora = {name: seeds()[name] + kept(name) for name in names}
    left, found = options.seconds, 0
    with tempfile.TemporaryDirectory() as folder:
        store = Store(golden_repository(Path(folder) / "repo"))
        with store.shared():
            while left > 0 and names:
                share = min(ROUND_S, left / len(names))
                for name in list(names):
                    try:
                        grown = fuzz(name, prepared(name, store), corpora[name], seed=fresh(), seconds=share)
                    except Finding as finding:
                        found += 1
                        names.remove(name)  # it would find the same again
                        report(name, finding)
                        continue
                    for data in grown[len(corpora[name]) :]:
                        keep(FOLDER / "corpus" / name, data)
                    print(f"{name}: {len(grown)} inputs, {len(grown) - len(corpora[name])} of them new", flush=True)
                    corpora[name] = grown
                left -= share * max(len(names), 1)
    return 1 if found else 0


def fresh() -> int:
    return int.from_bytes(os.urandom(6), "big")


def kept(name: str) -> list[bytes]:
    """The corpus of earlier runs."""
    return [path.read_bytes() for path in sorted((FOLDER / "corpus" / name).glob("*"))]


def keep(folder: Path, data: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / digest(data).hex()[:20]
    path.write_bytes(data)
    return path


def report(name: str, finding: Finding) -> None:
    path = keep(FOLDER / "found" / name, finding.data)
    print(f"{finding}\nwritten to {path}; for tests/fuzz/found.txt:\n{name} {finding.data.hex()}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
