"""Step times over the steps, one row for each system, one column for each loop. Readable on white and on black."""

import statistics
from pathlib import Path
from typing import Any

from stall_loops import LOOPS
from stall_report import HEADLINE_EVERY, Results

GREY = "#808080"
COLOURS = {"ciuic": "#8e5cd9", "torch.save": "#d9822b", "safetensors": "#2f9e6e"}
DCP_COLOUR = "#3d85c6"


def draw(results: Results, path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams.update(
        {
            "font.family": "sans-serif",
            "svg.fonttype": "none",  # text stays text, in the reader's fonts
            "svg.hashsalt": "ciuic",
            **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), GREY),
        }
    )
    loops = [loop for loop in LOOPS if results.systems(loop, results.headline, HEADLINE_EVERY)]
    systems = [name for name in results.systems(loops[0], results.headline, HEADLINE_EVERY) if name != "none"]
    figure, grid = pyplot.subplots(
        len(systems), len(loops), figsize=(9, 1.25 * len(systems) + 0.9), sharex=True, sharey="col", squeeze=False
    )
    for column, loop in enumerate(loops):
        for line, system in enumerate(systems):
            panel(grid[line][column], results, loop, system)
        grid[0][column].set_title(
            f"{loop}, {results.headline}, a snapshot every {HEADLINE_EVERY} steps", fontsize=10, pad=22
        )
        grid[-1][column].set_xlabel("step", fontsize=9)
        grid[len(systems) // 2][0].set_ylabel("seconds", fontsize=9)
    figure.tight_layout(h_pad=0.6, w_pad=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", transparent=True, metadata={"Date": None})
    pyplot.close(figure)


def panel(axes: Any, results: Results, loop: str, system: str) -> None:
    records = results.of(loop, results.headline, HEADLINE_EVERY, system)
    colour = COLOURS.get(system, DCP_COLOUR)
    columns = list(zip(*(record.steps for record in records), strict=True))
    middles = [statistics.median(column) for column in columns]
    numbers = list(range(1, len(columns) + 1))
    axes.bar(numbers, middles, width=0.7, color=colour, linewidth=0)
    if len(records) > 1:
        axes.vlines(numbers, [min(c) for c in columns], [max(c) for c in columns], color=GREY, linewidth=1)
    base = statistics.median(results.base(record) for record in records)
    axes.axhline(base, color=GREY, linewidth=1, linestyle=(0, (3, 2)))
    added = 1000 * statistics.median(results.added(records))
    axes.text(0, 1.04, system, transform=axes.transAxes, color=colour, fontsize=9.5, fontweight="bold")
    shown = f"{added:+.0f} ms a snapshot".replace("-", "−")
    axes.text(1, 1.04, shown, transform=axes.transAxes, color=GREY, fontsize=9, ha="right")
    axes.set_xticks(numbers)
    axes.tick_params(labelsize=8, length=2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
