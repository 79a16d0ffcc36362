"""Batches per second: the stream next to other ways to feed the same samples to a trainer.

    pip install -e . lmdb webdataset mosaicml-streaming ffcv      (what is missing is left out)
    python bench/stream.py --json stream.json
    python bench/stream.py --quick

One sample is a 112×112 RGB crop, a 28×28 heatmap, three 28×28 region masks, a 7×7 visibility
and a label: 40,874 bytes. Every contender delivers all samples once per epoch, shuffled, in
batches of 256, from files that are in memory already: written, dropped and read back once, as
after a start of the machine. Each contender has a process of its own; in every round each has
one short turn, so that a change of the machine's load meets all of them, and a ratio is the
median of the rounds' ratios. Peers get the better of 0 and 2 workers. Before the rounds every
batch of every contender is compared with the samples, bit by bit.

memcpy is the limit: one thread copies blocks of a batch's size, in order, from memory into a
ring of four buffers.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import click
import cv2
import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from stream_contenders import CONTENDERS, Contender
from stream_samples import (
    BATCH,
    NAMES,
    ROW_BYTES,
    SIZE,
    Epoch,
    jpeg,
    picture,
    unpack,
    write_samples,
)


def check(epoch: Epoch, samples: NDArray[np.uint8], contender: Contender) -> None:
    """Compare every row of an epoch with its sample.

    Raises:
        SystemExit: when a value differs, or the epoch lacks a sample.
    """
    truth, seen = unpack(samples), []
    for batch in epoch():
        if "packed" in batch:
            batch = unpack(batch["packed"])
        batch = {name: np.asarray(batch[name]) for name in NAMES}
        rows = batch["label"].astype(np.int64)
        seen.append(rows.copy())
        for name, values in batch.items():
            if name == "image" and contender.lossy:
                pictures = [
                    truth["image"][row] if contender.size == SIZE else picture(row, contender.size)
                    for row in rows.tolist()
                ]
                wanted = np.stack(
                    [
                        cv2.imdecode(np.frombuffer(jpeg(image), np.uint8), cv2.IMREAD_COLOR_RGB)
                        for image in pictures
                    ]
                )
            else:
                wanted = truth[name][rows]
            if name == "image" and contender.tolerance:
                alike = abs(values.astype(np.int16) - wanted).max() <= contender.tolerance
            else:
                alike = np.array_equal(values, wanted)
            if not alike:
                sys.exit(f"{name} differs from the samples")
    delivered = np.concatenate(seen)
    distinct = len(np.unique(delivered))
    if distinct != len(samples):
        sys.exit(f"{len(delivered)} rows, {distinct} of {len(samples)} samples")


def measure(epoch: Epoch, seconds: float) -> float:
    """Samples per second over whole epochs."""
    delivered, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for batch in epoch():
            delivered += len(next(iter(batch.values())))
    return delivered / (time.perf_counter() - start)


def serve(folder: Path, name: str, workers: int) -> None:
    """A contender's process: check, then one measurement per line of seconds on stdin."""
    warnings.filterwarnings("ignore", "The given NumPy array is not writable")
    torch.set_num_threads(1)  # collating with several lets them wait for each other
    contender = CONTENDERS[name]
    epoch = contender.open(folder if name == "memcpy" else folder / contender.files, workers)
    samples = np.load(folder / "samples.npy", mmap_mode="r")
    check(epoch, samples if contender.size == SIZE else samples[: len(samples) // 10], contender)
    del samples
    print("checked", flush=True)
    for line in sys.stdin:
        print(measure(epoch, float(line)), flush=True)


class Process:
    """A contender in an interpreter of its own, idle between its turns."""

    def __init__(self, folder: Path, name: str, workers: int) -> None:
        self.name = f"{name} with {workers} workers"
        command = [sys.executable, __file__, "--only", name, "--workers", str(workers)]
        self.log = folder / f"{name}-{workers}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, "--folder", str(folder)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        self.answer()

    def turn(self, seconds: float) -> float:
        """Samples per second of one measurement."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        return float(self.answer())

    def answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            reason = self.log.read_text().strip()[-2000:]
            raise click.ClickException(f"{self.name} failed: {reason}")
        return line

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


def stored_bytes(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def present_contenders(among: tuple[str, ...]) -> tuple[dict[str, Contender], dict[str, str]]:
    """The contenders whose modules import, and why the others do not."""
    present, absent = {}, {}
    for name, contender in CONTENDERS.items():
        if name != "faceguide" and not name.startswith(among):  # the others are compared with it
            absent[name] = "not asked for"
            continue
        try:
            if contender.module is not None:
                importlib.import_module(contender.module)
            present[name] = contender
        except ModuleNotFoundError:
            absent[name] = "not installed"
        except Exception as error:  # whatever a package raises that does not fit its neighbours
            absent[name] = f"does not import: {error}".splitlines()[0]
    return present, absent


def build(folder: Path, count: int, present: dict[str, Contender]) -> None:
    """Write the samples and every contender's files, and leave them in memory as reads do."""
    write_samples(folder / "samples.npy", count)
    samples = np.load(folder / "samples.npy", mmap_mode="r")
    for name, contender in present.items():
        if contender.build is None:
            continue
        click.echo(f"building {name}", err=True)
        (folder / contender.files).mkdir()
        own = samples if contender.size == SIZE else samples[: count // 10]
        with contextlib.redirect_stderr(io.StringIO()):  # their progress bars
            contender.build(folder / contender.files, own)
    del samples
    for path in filter(Path.is_file, folder.rglob("*")):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while file.read(1 << 16):
                pass


def contest(
    folder: Path, count: int, rounds: int, seconds: float, among: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Build, check and time every contender that is installed."""
    present, absent = present_contenders(among)
    build(folder, count, present)
    runs = [(name, workers) for name, c in present.items() for workers in c.workers]
    speeds: dict[tuple[str, int], list[float]] = {run: [] for run in runs}
    with contextlib.ExitStack() as stack:
        processes = {}
        for name, workers in runs:
            click.echo(f"checking {name}, {workers} workers", err=True)
            processes[name, workers] = Process(folder, name, workers)
            stack.callback(processes[name, workers].close)
        for number in range(rounds):
            click.echo(f"round {number + 1} of {rounds}", err=True)
            for run, process in processes.items():
                speeds[run].append(process.turn(seconds))
    reference = speeds["faceguide", *CONTENDERS["faceguide"].workers]
    results = []
    for name, contender in CONTENDERS.items():
        result: dict[str, Any] = {"name": name, "samples_per_s": None, "bytes_per_sample": None}
        results.append(result)
        if name in absent:
            result["note"] = absent[name]
            continue
        best = max(contender.workers, key=lambda w: statistics.median(speeds[name, w]))
        mine = speeds[name, best]
        rows = count if contender.size == SIZE else count // 10
        stored = ROW_BYTES * rows if name == "memcpy" else stored_bytes(folder / contender.files)
        result |= {
            "samples_per_s": statistics.median(mine),
            "bytes_per_sample": stored / rows,
            "min": min(mine),
            "max": max(mine),
            "faceguide_ratio": statistics.median(
                a / b for a, b in zip(reference, mine, strict=True)
            ),
            "workers": best,
            "rounds": {str(w): speeds[name, w] for w in contender.workers},
            "note": contender.note,
        }
    return results


def show(results: list[dict[str, Any]]) -> None:
    head = ("contender", "samples/s", "min", "max", "B/sample", "faceguide ÷", "workers")
    click.echo("{:<20}{:>11}{:>10}{:>10}{:>10}{:>13}{:>9}  note".format(*head))
    for r in results:
        if r["samples_per_s"] is None:
            click.echo(f"{r['name']:<20}{'–':>11}  {r['note']}")
            continue
        click.echo(
            f"{r['name']:<20}{r['samples_per_s']:>11,.0f}{r['min']:>10,.0f}{r['max']:>10,.0f}"
            f"{r['bytes_per_sample']:>10,.0f}{r['faceguide_ratio']:>13.2f}"
            f"{r['workers']:>9}  {r['note']}"
        )
    click.echo(
        f"B/sample: on disk, of {ROW_BYTES:,} delivered; faceguide's files also hold landmarks "
        "(5,736 B), transform, pose, digests and key."
    )


@click.command()
@click.option("--json", "report", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--quick", is_flag=True, help="2,000 samples, one short round: does it run?")
@click.option("--samples", default=20_000, show_default=True, help="Samples of the contest.")
@click.option("--rounds", default=9, show_default=True, help="Times that each contender is timed.")
@click.option("--seconds", default=0.5, show_default=True, help="Least time of a turn.")
@click.option("--folder", type=click.Path(path_type=Path), hidden=True)
@click.option("--among", default=[""], multiple=True, help="Only names that begin so: faceguide.")
@click.option("--only", hidden=True)
@click.option("--workers", default=0, hidden=True)
def main(
    report: Path | None, quick: bool, samples: int, rounds: int, seconds: float,
    among: tuple[str, ...], folder: Path | None, only: str | None, workers: int,
) -> None:  # fmt: skip
    """Time the stream next to its peers: samples per second, from warm files."""
    if only is not None and folder is not None:
        serve(folder, only, workers)
        return
    if quick:
        samples, rounds, seconds = 2_000, 1, 0.1
    with tempfile.TemporaryDirectory(prefix="faceguide-bench-") as temporary:
        results = contest(Path(temporary), samples, rounds, seconds, among)
    show(results)
    if report:
        facts = {"samples": samples, "batch": BATCH, "delivered_bytes": ROW_BYTES}
        facts |= {"rounds": rounds, "cores": os.cpu_count(), "python": platform.python_version()}
        facts |= {"torch": torch.__version__, "numpy": np.__version__, "h5py": h5py.__version__}
        report.write_text(json.dumps({**facts, "contenders": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
