"""What the benchmarks share: where they ran, how a table looks, and where it goes."""

import os
import platform
from argparse import ArgumentParser
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path


def parse_destination(description: str | None) -> Path | None:
    parser = ArgumentParser(description=description)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into this page, too")
    destination: Path | None = parser.parse_args().write
    return destination


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def surroundings() -> str:
    """The machine and the versions, without which a figure says little."""
    import torch

    return (
        f"{datetime.now(timezone.utc):%Y-%m-%d}, {processor()}, {os.cpu_count()} CPUs "
        f"(load average {os.getloadavg()[0]:.1f}), {platform.system()}, "
        f"Python {platform.python_version()}, torch {torch.__version__}, ciuic {version('ciuic')}"
    )


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def publish(name: str, text: str, page: Path | None, by: str = "make bench") -> None:
    """Print the text; replace what stands in the page between the two markers with this name."""
    print(text)
    if page is None:
        return
    start, end = f"<!-- {name}: written by {by} -->", f"<!-- end of {name} -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(start)
    _, found_end, after = rest.partition(end)
    if not (found and found_end):
        raise SystemExit(f"{page} lacks the markers {start} and {end}.")
    page.write_text(f"{before}{start}\n\n{text}\n\n{end}{after}", encoding="utf-8")
