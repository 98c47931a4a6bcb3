"""What a difference between an interrupted and an uninterrupted training mostly comes from."""

from __future__ import annotations

import re

from ciuic.supervisor.comparing import Difference, generator_of

LEARNING_RATE = re.compile(r"optimizer/(.*/)?param_groups/\d+/(initial_)?(lr|momentum|betas)(/\d+)?")
POSITION = "data"
NOT_REPEATABLE = (
    "the script does not repeat itself: two runs differ without any interruption. Seed every generator, use the same "
    "number of threads and deterministic algorithms, and then look at how it resumes."
)


def probable_cause(difference: Difference, components: tuple[str, ...]) -> str:
    """In a sentence or two, by what differs first. ``components``: all that the snapshots hold."""
    first = set(difference.components)
    if all(LEARNING_RATE.fullmatch(path) for path in difference.paths):
        kept = "scheduler" in components
        return (
            "the learning rate goes another way: "
            + ("the scheduler is not brought back before its first step, or the rate is set by hand after the restore."
               if kept else "no scheduler is in the snapshots. Track it: `sm.track(scheduler=scheduler)`.")
        )  # fmt: skip
    generators = [name for path in difference.paths if (name := generator_of(path)) is not None]
    if any(path.split("/")[0] == POSITION and generator_of(path) is None for path in difference.paths):
        return "the position in the data: batches were drawn that `sm.batches(loader)` does not know of."
    if generators:
        names = ", ".join(dict.fromkeys(generators))
        return (
            f"the random generator ({names}): something draws from it after the restore that an uninterrupted run does "
            "not draw there, or has drawn before. Restore last, right before the loop."
        )
    if "scheduler" in first:
        return "the scheduler: it is not brought back, or stepped once more or less after a resume."
    if first <= {"model", "optimizer", "gradients", "scaler"}:
        position = "" if POSITION in components else " that the batches come from `sm.batches(loader)`,"
        return (
            "what goes into a step is another one though torch's, numpy's and Python's own generators agree. See that "
            f"every generator of your own is tracked,{position} and that nothing else is kept between steps."
        )
    return f"{', '.join(sorted(first))}: it is kept between steps, and not brought back as it was."
