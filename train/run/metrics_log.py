"""metrics.jsonl: one JSON object per line, which a resumed run continues without a seam."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from faceguide.core.errors import TrainError
from faceguide.core.files import write_bytes, write_error

METRICS = "metrics.jsonl"


class Metrics:
    """Appends to metrics.jsonl and, if asked, to TensorBoard.

    Args:
        step: optimiser steps done; lines beyond it were written by a run that was killed before
            it could save, and are dropped.
        due: the evaluation of this step is to be done; a line of it, written by a run that was
            killed before it could save the result, is dropped too.
        tensorboard: also write TensorBoard events into `directory`/tensorboard.

    Raises:
        TrainError: when TensorBoard is asked for and not installed.
    """

    def __init__(
        self, directory: Path, step: int, due: bool = False, tensorboard: bool = False
    ) -> None:
        self.path = directory / METRICS
        if self.path.exists():
            kept = [line for line in read_metrics(directory) if line["step"] <= step]
            if due:
                again = {"kind": "evaluation", "step": step}
                kept = [line for line in kept if not again.items() <= line.items()]
            write_bytes(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._events: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise TrainError(
                    "--tensorboard needs the package tensorboard: pip install "
                    "'faceguide[tensorboard]'"
                ) from None
            self._events = SummaryWriter(str(directory / "tensorboard"), purge_step=step + 1)

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        """One line: `kind`, `step` and the values; what is not finite becomes null."""
        line = {name: value if math.isfinite(value) else None for name, value in values.items()}
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"kind": kind, "step": step, **line}) + "\n")
        except OSError as error:
            raise write_error(self.path, error) from error
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Flush TensorBoard's events."""
        if self._events is not None:
            self._events.close()


def read_metrics(
    directory: Path, kind: str | None = None, having: str | None = None
) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a last line that a kill cut short is left out.

    Args:
        having: only lines with a value of this name.
    """
    lines = []
    for text in (directory / METRICS).read_text("utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return [
        line
        for line in lines
        if kind in (None, line["kind"]) and (having is None or line.get(having) is not None)
    ]
