"""Means of what is logged, images per second, and the share of time spent waiting for data."""

from __future__ import annotations

import time
from collections.abc import Iterator

from torch import Tensor


class Meter:
    """Means over the steps since the last line, summed on the device: no wait per step."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count, self._images = 0, 0
        self._waited, self._since = 0.0, time.perf_counter()

    def timed(self, batches: Iterator[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
        """The batches; the time that is spent waiting for them counts."""
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self._waited += time.perf_counter() - start
            if batch is None:
                return
            yield batch

    def add(self, losses: dict[str, Tensor], images: int) -> None:
        """Count a batch: its scalar losses, and its images on all processes."""
        for name, value in losses.items():
            if value.ndim == 0:
                value = value.detach().float()
                self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._count += 1
        self._images += images

    def exclude(self, seconds: float) -> None:
        """Leave out time that was not spent training."""
        self._since += seconds

    def take(self, rate: float, epochs: float) -> dict[str, float]:
        """Means of all scalars, with speed and share of time spent waiting; starts over."""
        elapsed = time.perf_counter() - self._since
        values = {name: value.item() / self._count for name, value in self._sums.items()}
        values |= {
            "rate": rate,
            "epoch": epochs,
            "images_per_second": self._images / elapsed,
            "data_wait": self._waited / elapsed,
        }
        self._reset()
        return values
