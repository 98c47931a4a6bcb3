"""What to keep of a history: policies, and what carries them out. The newest intact snapshot always stays."""

from ciuic.retention.policies import (
    AnyPolicy,
    DropComponents,
    KeepBest,
    KeepDaily,
    KeepEvery,
    KeepHourly,
    KeepLast,
    KeepTagged,
    SizeBudget,
)

__all__ = [
    "AnyPolicy", "DropComponents", "KeepBest", "KeepDaily", "KeepEvery", "KeepHourly", "KeepLast", "KeepTagged",
    "SizeBudget",
]  # fmt: skip
