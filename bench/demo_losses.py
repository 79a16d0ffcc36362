"""Exit with 1 unless the loss of every training run given fell: `demo_losses.py RUN RUN …`."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> None:
    """Compare the first and the last line of each run's metrics."""
    rose = False
    for run in sys.argv[1:]:
        lines = (Path(run) / "metrics.jsonl").read_text().splitlines()
        losses = [line["loss"] for line in map(json.loads, lines) if line["kind"] == "train"]
        print(f"{run}: loss {losses[0]:.2f} → {losses[-1]:.2f}")
        rose = rose or losses[-1] >= losses[0]
    sys.exit(1 if rose else 0)


if __name__ == "__main__":
    main()
