"""Batches of two caches side by side: recognition in front, covered faces behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from faceguide.cache.reader import FaceCache
from faceguide.cache.stream import Stream

SECOND = "occlusion_"  # before the column names of the second cache's batch


class TwoStreams:
    """One batch of each, used by the loop in place of a `Stream`.

    The first, of the recognition cache, decides the length of an epoch; the second, of the covered
    faces, repeats, and its columns come with `SECOND` before their names.
    """

    def __init__(self, first: Stream, second: Stream) -> None:
        self._first, self._second = first, second

    @property
    def cache(self) -> FaceCache:
        """Its rows a batch names by `row`."""
        return self._first.cache

    @property
    def epoch(self) -> int:
        """The epoch of the first that the next batch belongs to."""
        return self._first.epoch

    def __len__(self) -> int:
        return len(self._first)

    def state_dict(self) -> dict[str, Any]:
        """Where both stand; `batch` is the first's."""
        return {**self._first.state_dict(), "second": self._second.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume exactly where `state_dict()` was asked for."""
        self._first.load_state_dict(state)
        self._second.load_state_dict(state["second"])

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        # The second continues where it stood: its epochs are not those of the first.
        behind = iter(self._second)
        try:
            for batch in self._first:
                other = next(behind, None)
                while other is None:
                    behind = iter(self._second)
                    other = next(behind, None)
                yield batch | {SECOND + name: values for name, values in other.items()}
        finally:
            behind.close()  # type: ignore[attr-defined]  # a generator; its threads must end
