"""An hour of streaming and training in one process: memory stays constant, no handle is left open.

Every cycle streams one shuffled epoch of a cache, trains CAL for some steps, resumes it for some
more, and does the same with AdaFace and QAConv. After each cycle the process's resident memory and
open files are counted: memory once as it is, and once after the C library has given back what it
holds in reserve, which comes and goes by some per cent (fragments, and the thresholds of glibc that
follow the largest block freed). The first quarter warms up; through the rest of the second figure a
straight line is fitted by least squares, and the drift is what it rises by from its beginning to
its end, as a share of its beginning.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from tests.campaigns.counts import Campaign, Counts

ROWS, SIZE = 600, 112
LARGEST_DRIFT = 0.01
WARM = 0.25  # share of the samples
FEWEST = 8  # samples that a line may be fitted through
LEAST = math.ceil(FEWEST / (1 - WARM))  # cycles, also where they take longer than the time given


def campaign(count: int, seed: int, folder: Path) -> Counts:
    """Soak for `count` seconds in a process of its own; `Campaign.run`."""
    command = [sys.executable, "-m", "tests.campaigns.soak", str(count), str(seed), str(folder)]
    ended = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    record = folder / "samples.json"
    if ended.returncode or not record.exists():
        return Counts(1, 0, crashes=1, failures=(f"soak ended with {ended.returncode}",))
    return judge(json.loads(record.read_text()))


def judge(samples: list[dict[str, float]]) -> Counts:
    """Whether memory and open files stayed as they were."""
    warm = samples[int(len(samples) * WARM) :]
    files = {int(sample["files"]) for sample in warm}
    held = [sample["held"] for sample in warm]
    moved = drift(samples)
    last = samples[-1]
    details = {
        "cycles": len(samples),
        "batches streamed": int(last["batches"]),
        "training steps": int(last["steps"]),
        "MiB resident": round(warm[0]["resident"] / 2**20, 1),
        "MiB with reserves, least": round(min(held) / 2**20, 1),
        "MiB with reserves, most": round(max(held) / 2**20, 1),
        "drift per cent": round(100 * moved, 3),
        "open files": max(files),
    }
    failures = []
    if len(warm) < FEWEST:
        failures.append(f"{len(warm)} samples after the warm-up are too few to fit a line through")
    if moved >= LARGEST_DRIFT:
        failures.append(f"resident memory rose by {moved:.2%}")
    if len(files) > 1:
        failures.append(f"the number of open files changed: {sorted(files)}")
    return Counts(1, int(not failures), details=details, failures=tuple(failures))


def drift(samples: list[dict[str, float]]) -> float:
    """Rise of the fitted line after the warm-up, as a share of where it begins."""
    warm = samples[int(len(samples) * WARM) :]
    times = np.array([sample["seconds"] for sample in warm])
    slope, start = np.polyfit(times - times[0], [sample["resident"] for sample in warm], 1)
    return float(slope * (times[-1] - times[0]) / start)


def soak(seconds: float, seed: int, folder: Path) -> list[dict[str, float]]:
    """Cycles until the time is over, `LEAST` at least: one sample after each."""
    import torch
    from tests.cache.builder import build

    from faceguide.cache.reader import FaceCache
    from faceguide.cache.stream import Stream

    torch.set_num_threads(1)
    build(folder / "cache", ROWS, 256, size=SIZE, seed=seed)
    cache = FaceCache.open(folder / "cache")
    stream = Stream(
        cache,
        cache.select(),
        columns=("image", "landmarks", "heatmap", "regions", "visibility", "label"),
        batch_size=64,
        seed=seed,
        check=True,
    )
    began, batches, steps = time.monotonic(), 0, 0
    samples: list[dict[str, float]] = []
    # What trainings say, the same every time, goes into one stream: click holds every stream that
    # it ever wrote to.
    unseen = Path(os.devnull).open("w")  # noqa: SIM115 - open to the end
    while len(samples) < LEAST or time.monotonic() - began < seconds:
        for _ in stream:
            batches += 1
        with contextlib.redirect_stderr(unseen):
            for which in ("cal", "oaml"):
                steps += _train(cache, folder / which, which)
        gc.collect()
        held = _resident()
        _give_back()
        samples.append(
            {
                "seconds": time.monotonic() - began,
                "resident": _resident(),
                "held": held,
                "files": len(list(Path("/proc/self/fd").iterdir())),
                "batches": batches,
                "steps": steps,
            }
        )
        if len(samples) % 20 == 0:
            _tell(samples[-1])
    _tell(samples[-1])
    return samples


def _train(cache: Any, directory: Path, which: str) -> int:
    """A short training that is resumed once, in a fresh directory; returns its steps."""
    from tests.train.cal.scenario import train_tiny as train_cal
    from tests.train.oaml.scenario import train_tiny as train_oaml

    shutil.rmtree(directory, ignore_errors=True)
    train, half = (train_cal, 6) if which == "cal" else (train_oaml, 3)
    for steps in (half, 2 * half):
        lines = train(cache, directory, steps=steps, epochs=99)
    return int(max(line["step"] for line in lines))


def _resident() -> int:
    """Bytes of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _give_back() -> None:
    """Let the C library return its free pages, where it can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _tell(sample: dict[str, float]) -> None:
    print(
        f"soak: {sample['seconds']:.0f} s, {sample['batches']:.0f} batches streamed, "
        f"{sample['steps']:.0f} steps trained, {sample['resident'] / 2**20:.1f} MiB "
        f"({sample['held'] / 2**20:.1f} with reserves), "
        f"{sample['files']:.0f} open files",
        file=sys.stderr,
        flush=True,
    )


CAMPAIGNS = {"soak": Campaign(campaign, 3600)}

if __name__ == "__main__":
    place = Path(sys.argv[3])
    found = soak(float(sys.argv[1]), int(sys.argv[2]), place)
    (place / "samples.json").write_text(json.dumps(found))
