"""Faults in what an evaluation is given: pair lists, protocols, run directories."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from faceguide.cache.errors import FaceguideError, ListError

__all__ = ["EvaluationError", "ListError", "Unfinished"]


class EvaluationError(FaceguideError):
    """An evaluation that cannot be done as asked."""


class Unfinished(EvaluationError):
    """A run lacks blocks that its parts should have made.

    Attributes:
        what: of what the blocks are.
        blocks: their numbers; block b is of part b mod N.
    """

    def __init__(self, run: Path, what: str, blocks: Sequence[int], total: int) -> None:
        super().__init__(
            f"{run}: {len(blocks)} of {total} blocks of {what} are missing; run the parts that "
            "make them (`evaluate merge --parts N` names those of N), then merge again"
        )
        self.what = what
        self.blocks = tuple(blocks)
