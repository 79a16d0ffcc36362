"""What one image, one sample and one shard cost, and the bill for sets up to a billion faces.

    python bench/scale.py PHOTOS --plan plan.json --json scale.json      (plan.json: bench/plan.py)

PHOTOS is a folder of face images; they are used again and again until there are enough. Costs
are slopes: each command runs at two sizes in processes of its own, so that start-up cancels out
and is named by itself. CPU time is user and system time of one process (`--jobs 1`), which a busy
machine distorts less than the clock. Metadata operations are the system calls that name a file
(open, stat, rename, link, unlink …), counted by strace where it is installed.
"""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np

from faceguide.cache import FaceCache, Stream
from faceguide.cache.manifest import seal
from faceguide.cache.planning.new_plan import default_shard_rows, make_plan
from faceguide.cache.planning.spooled_listing import Row
from faceguide.preprocess.face_settings import FaceSettings
from faceguide.preprocess.masks.mask_shards import find_shared_stems

PREP = [sys.executable, "-m", "faceguide", "prep"]
SETS = {
    "CASIA-WebFace": 490_623,
    "MS1MV3": 5_179_510,
    "WebFace42M": 42_474_558,
    "a billion": 1_000_000_000,
}
COLUMNS = ("image", "regions", "heatmap", "label")


def processor_seconds(command: list[str]) -> float:
    """User and system time of a command that must succeed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise click.ClickException(f"{' '.join(command)}: {done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def metadata_operations(command: list[str]) -> int:
    """System calls with a file name that a command makes."""
    with tempfile.NamedTemporaryFile() as log:
        trace = ["strace", "-f", "-c", "-e", "trace=%file,getdents64", "-o", log.name]
        subprocess.run([*trace, *command], capture_output=True, check=True)
        total = re.search(r"(\d+)(?: +\d+)? total$", Path(log.name).read_text(), re.MULTILINE)
    assert total is not None
    return int(total[1])


def gather(source: Path, folder: Path, images: int) -> None:
    """Copy `images` photographs, and a mask for each, into folders of 50."""
    paths = sorted(path for path in source.rglob("*.*") if path.is_file())
    for number, path in enumerate(islice(cycle(paths), images)):
        name = f"{number // 50:04d}/{number:06d}"
        for kind, suffix in (("photos", path.suffix), ("masks", ".png")):
            target = folder / kind / f"{name}{suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            if kind == "photos":
                shutil.copyfile(path, target)
                continue
            height, width = cv2.imread(str(path)).shape[:2]
            mask = np.full((height, width), 255, np.uint8)
            mask[height // 2 :] = 0
            cv2.imwrite(str(target), mask)


def landmarks(folder: Path, cache: Path, shard_rows: int, *further: str) -> list[str]:
    """The command that makes faces and guidance."""
    return [
        *PREP, "landmarks", str(folder / "photos"), "--out", str(cache), "--jobs", "1",
        "--allow-failures", "--shard-rows", str(shard_rows), *further,
    ]  # fmt: skip


def group_bytes(cache: Path, group: str) -> int:
    """Bytes of a group's shards and sidecars."""
    return sum(path.stat().st_size for path in cache.glob(f"{group}-*"))


def measure(source: Path, work: Path, small: int, large: int) -> dict[str, float]:
    """All slopes."""
    found: dict[str, float] = {}
    for size in (small, large):
        gather(source, work / str(size), size)
    step = large - small

    def slope(values: dict[int, float]) -> float:
        return (values[large] - values[small]) / step

    seconds: dict[str, dict[int, float]] = {"landmarks": {}, "masks": {}}
    size_of: dict[str, dict[int, float]] = {
        name: {} for name in ("faces", "guidance", "occlusion", "jpeg")
    }
    for size in (small, large):
        folder, cache, jpegs = work / str(size), work / f"cache{size}", work / f"jpeg{size}"
        seconds["landmarks"][size] = processor_seconds(landmarks(folder, cache, size))
        masks = ["masks", str(folder / "masks"), "--cache", str(cache), "--polarity", "visible"]
        seconds["masks"][size] = processor_seconds([*PREP, *masks, "--jobs", "1"])
        for group in ("faces", "guidance", "occlusion"):
            size_of[group][size] = group_bytes(cache, group)
        processor_seconds(landmarks(folder, jpegs, size, "--store", "jpeg"))
        size_of["jpeg"][size] = group_bytes(jpegs, "faces")
    found["landmarks_s"] = slope(seconds["landmarks"])
    found["masks_s"] = slope(seconds["masks"])
    found["start_s"] = seconds["landmarks"][small] - small * found["landmarks_s"]
    for name, values in size_of.items():
        found[f"{name}_bytes"] = slope(values)
    if shutil.which("strace"):
        calls = {
            (size, shards): metadata_operations(
                landmarks(work / str(size), work / f"trace{size}-{shards}", -(-size // shards))
            )
            for size, shards in ((small, 2), (large, 2), (small, 10))
        }
        found["calls_per_image"] = (calls[large, 2] - calls[small, 2]) / step
        found["calls_per_shard"] = (calls[small, 10] - calls[small, 2]) / 8
        found["calls_of_a_start"] = (
            calls[small, 2] - small * found["calls_per_image"] - 2 * found["calls_per_shard"]
        )
    processor_seconds(landmarks(work / str(small), work / "shards", 1))
    started = time.process_time()
    seal(work / "shards", "faces")
    found["seal_s"] = (time.process_time() - started) / small
    found |= read(work / f"cache{large}")
    found["stems_s"] = stems(work / "stems")
    return found


def read(cache: Path) -> dict[str, float]:
    """CPU time and clock time of one sample of a stream, from memory."""
    opened = FaceCache.open(cache)
    stream = Stream(opened, opened.select(), columns=COLUMNS, batch_size=64)
    for _ in stream:  # the first epoch maps the files
        pass
    rows, wall, processor = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < 5:
        rows += sum(len(batch["label"]) for batch in stream)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    sample = sum(int(np.prod(batch.shape[1:])) * batch.element_size()
                 for batch in next(iter(stream)).values())  # fmt: skip
    return {"sample_s": processor / rows, "sample_wall_s": wall / rows, "sample_bytes": sample}


def stems(directory: Path, rows: int = 200_000) -> float:
    """CPU time per row of what `prep masks` does once for all parts."""
    plan = make_plan(
        directory,
        lambda: (Row(f"{number // 80:07d}/{number:09d}.jpg") for number in range(rows)),
        recipe={"revision": 1},
        shard_rows=8192,
    )
    started = time.process_time()
    find_shared_stems(directory, plan, 1)
    return (time.process_time() - started) / rows


def bill(rows: int, cost: dict[str, float], plan: dict[str, Any] | None) -> dict[str, float]:
    """What a set of `rows` images costs with the default options, in core-hours."""
    shards = -(-rows // default_shard_rows(rows, FaceSettings(Path()).row_bytes()))
    per_row = plan["processor_s"]["per_row"] if plan else float("nan")
    raw = cost["faces_bytes"] + cost["guidance_bytes"] + cost["occlusion_bytes"]
    jpeg = cost["jpeg_bytes"] + cost["guidance_bytes"] + cost["occlusion_bytes"]
    return {
        "images": rows,
        "plan_h": rows * per_row / 3600,
        "landmarks_h": rows * cost["landmarks_s"] / 3600,
        "masks_h": rows * (cost["masks_s"] + cost["stems_s"]) / 3600,
        "epoch_h": rows * cost["sample_s"] / 3600,
        "raw_tb": rows * raw / 1e12,
        "jpeg_tb": rows * jpeg / 1e12,
        "shards": shards,
        "files": shards * 7 + 8,  # a list, three groups of shard and sidecar; plan, manifests …
        "calls": rows * cost.get("calls_per_image", float("nan"))
        + shards * cost.get("calls_per_shard", float("nan")),
    }


@click.command()
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--small", default=400, show_default=True, help="Images of the first size.")
@click.option("--large", default=1600, show_default=True, help="Images of the second size.")
@click.option(
    "--plan", "plan_file", type=click.Path(exists=True, path_type=Path), help="Of bench/plan.py."
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the table here.")
def main(
    source: Path, small: int, large: int, plan_file: Path | None, json_file: Path | None
) -> None:
    """Measure the costs over SOURCE and print the bill."""
    with tempfile.TemporaryDirectory() as temporary:
        cost = measure(source, Path(temporary), small, large)
    click.echo(f"slopes between {small} and {large} images, one process")
    click.echo(f"prep landmarks   {1000 * cost['landmarks_s']:8.2f} ms CPU per image")
    click.echo(f"prep masks       {1000 * cost['masks_s']:8.2f} ms CPU per image")
    click.echo(f"                 {1e6 * cost['stems_s']:8.2f} µs CPU per row, once for all parts")
    click.echo(f"cache seal       {1000 * cost['seal_s']:8.2f} ms CPU per shard and group")
    click.echo(f"start of a task  {cost['start_s']:8.2f} s CPU")
    click.echo(
        f"a sample         {1e6 * cost['sample_s']:8.2f} µs CPU, {cost['sample_bytes']:.0f} bytes, "
        f"{1 / cost['sample_wall_s']:,.0f} samples/s"
    )
    for name in ("faces", "jpeg", "guidance", "occlusion"):
        click.echo(f"{name:<16} {cost[f'{name}_bytes']:8.0f} bytes per image")
    if "calls_per_image" in cost:
        click.echo(
            f"metadata         {cost['calls_per_image']:8.2f} calls per image, "
            f"{cost['calls_per_shard']:.0f} per shard, {cost['calls_of_a_start']:.0f} per start"
        )
    plan = json.loads(plan_file.read_text()) if plan_file else None
    bills = {name: bill(rows, cost, plan) for name, rows in SETS.items()}
    click.echo(
        f"\n{'':<14}{'images':>14}{'plan h':>9}{'landmarks h':>13}{'masks h':>9}{'epoch h':>9}"
        f"{'raw TB':>9}{'jpeg TB':>9}{'shards':>8}{'files':>9}{'metadata calls':>16}"
    )
    for name, row in bills.items():
        click.echo(
            f"{name:<14}{row['images']:>14,}{row['plan_h']:>9.3f}{row['landmarks_h']:>13,.1f}"
            f"{row['masks_h']:>9,.1f}{row['epoch_h']:>9.3f}{row['raw_tb']:>9,.2f}"
            f"{row['jpeg_tb']:>9,.2f}{row['shards']:>8,}{row['files']:>9,}{row['calls']:>16,.0f}"
        )
    if json_file:
        json_file.write_text(json.dumps({"cost": cost, "bills": bills}))


if __name__ == "__main__":
    main()
