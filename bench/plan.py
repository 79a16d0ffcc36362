"""Plan millions of rows for real: time, memory, files, and what a worker reads of it.

    python bench/plan.py --json plan.json
    python bench/plan.py --rows 1000000

Each size is planned in a process of its own, through the function that `prep plan` calls, from
a listing that is generated as it is asked for (so that the planner is measured, not the file
system that lists the images; `prep plan` adds what that takes). Rows look like those of an
unpacked face set: 112×112 crops, 80 images per identity. The slope is a least-squares line
through the sizes; what lies beyond the largest size is marked as an extrapolation.

One process takes the rows as they are listed; what follows is spread over processes. Processor time
is measured in one process, apart for the generator, the taking and what is spread.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

from faceguide.cache.inspect.info import summary
from faceguide.cache.plan import load_plan, read_sources
from faceguide.cache.planning.new_plan import make_plan
from faceguide.cache.planning.shard_lists import Tick, in_turn
from faceguide.cache.planning.spooled_listing import Row
from faceguide.preprocess.face_settings import FaceSettings
from faceguide.preprocess.parallel import over_processes, usable_cores

PER_IDENTITY = 80
BEYOND = (42_000_000, 1_000_000_000)
RECIPE = {"revision": 1, "size": 112, "store": "raw"}


def listing(rows: int, per_identity: int) -> Iterator[Row]:
    """Rows as a folder source gives them."""
    for number in range(rows):
        identity = f"{number // per_identity:08d}"
        yield Row(f"{identity}/{number % per_identity:04d}.jpg", identity)


def bytes_read() -> int:
    """Bytes that this process has asked the system for so far."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


def measure(directory: Path, rows: int, per_identity: int, jobs: int) -> dict[str, Any]:
    """Plan, then look at the plan as a worker and as `cache info` do."""
    baseline = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    processor = time.process_time()
    for _ in listing(rows, per_identity):
        pass
    generated, spread_s = time.process_time() - processor, 0.0

    def timed(work: Callable[[int, Tick], None], units: int) -> None:
        nonlocal spread_s
        before = time.process_time()
        in_turn(work, units)
        spread_s += time.process_time() - before

    wall, processor = time.perf_counter(), time.process_time()
    plan = make_plan(
        directory,
        lambda: listing(rows, per_identity),
        recipe=RECIPE,
        row_bytes=FaceSettings(Path()).row_bytes(),
        spread=timed if jobs == 1 else over_processes(jobs, "lists"),
    )
    found: dict[str, Any] = {
        "rows": rows,
        "wall_s": time.perf_counter() - wall,
        "processor_s": time.process_time() - processor - generated,
        "spread_s": spread_s,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "baseline_mib": baseline / 1024,
        "shards": plan.shards,
        "files": sum(path.is_file() for path in directory.rglob("*")),
        "bytes": sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()),
    }
    before, started = bytes_read(), time.perf_counter()
    loaded = load_plan(directory)
    assert loaded is not None
    own = read_sources(directory, loaded, loaded.shards // 2)
    found["worker_ms"] = 1000 * (time.perf_counter() - started)
    found["worker_bytes"] = bytes_read() - before
    found["worker_rows"] = len(own)
    started = time.perf_counter()
    summary(directory)
    found["info_ms"] = 1000 * (time.perf_counter() - started)
    return found


def alone(rows: int, per_identity: int, folder: Path | None, jobs: int = 1) -> dict[str, Any]:
    """Measure in a process of its own: peak memory never falls."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        command = [
            sys.executable, __file__, "--rows", str(rows), "--per-identity", str(per_identity),
            "--one", f"{temporary}/cache", "--jobs", str(jobs),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@click.command()
@click.option("--rows", default=10_000_000, show_default=True, help="Of the largest plan.")
@click.option("--folder", type=click.Path(exists=True, path_type=Path), help="Where to plan.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the table here.")
@click.option("--one", type=click.Path(path_type=Path), hidden=True)
@click.option("--per-identity", default=PER_IDENTITY, hidden=True)
@click.option("--jobs", default=1, hidden=True)
def main(
    rows: int,
    folder: Path | None,
    json_file: Path | None,
    one: Path | None,
    per_identity: int,
    jobs: int,
) -> None:
    """Plan an eighth, a quarter, a half and the whole of ROWS."""
    if one is not None:
        click.echo(json.dumps(measure(one, rows, per_identity, jobs)))
        return
    table = []
    click.echo(
        f"{'rows':>12}{'wall s':>9}{'CPU s':>9}{'spread s':>9}{'peak MiB':>10}"
        f"{'shards':>8}{'files':>7}{'GB':>7}"
        f"{'own list: rows':>16}{'KB read':>9}{'ms':>6}{'info ms':>9}"
    )
    for size in (rows // 8, rows // 4, rows // 2, rows):
        found = alone(size, PER_IDENTITY, folder)
        table.append(found)
        click.echo(
            f"{size:>12,}{found['wall_s']:>9.1f}{found['processor_s']:>9.1f}"
            f"{found['spread_s']:>9.1f}{found['peak_mib']:>10.0f}{found['shards']:>8,}{found['files']:>7,}"
            f"{found['bytes'] / 1e9:>7.2f}{found['worker_rows']:>16,}"
            f"{found['worker_bytes'] / 1e3:>9.0f}{found['worker_ms']:>6.0f}{found['info_ms']:>9.1f}"
        )
    sizes = np.array([found["rows"] for found in table], float)
    record: dict[str, Any] = {"table": table}
    for name, label in (("processor_s", "CPU time"), ("spread_s", "of it spread")):
        values = np.array([found[name] for found in table])
        slope, offset = np.polyfit(sizes, values, 1)
        misfit = float(np.abs(values - slope * sizes - offset).max() / values.max())
        record[name] = {"per_row": slope, "offset": offset, "misfit": misfit}
        click.echo(
            f"{label}: {1e6 * slope:.2f} µs per row "
            f"({1 / slope:,.0f} rows/s), off a straight line by at most {100 * misfit:.1f} % "
            "of the largest"
        )
    # Names are all that is held for the whole plan: with one image each they show.
    few, many = (alone(rows // part, 1, folder)["peak_mib"] for part in (8, 4))
    per_name = record["bytes_per_identity"] = (many - few) * 2**20 / (rows // 4 - rows // 8)
    click.echo(f"memory: {table[-1]['peak_mib']:.0f} MiB, or {per_name:.0f} bytes per identity")
    whole, spread = (record[name]["per_row"] for name in ("processor_s", "spread_s"))
    cores = usable_cores()
    wall = record["wall_s_on_all_cores"] = alone(rows, PER_IDENTITY, folder, cores)["wall_s"]
    click.echo(f"{rows:,} rows with {cores} processes: {wall:.1f} s by the clock")
    for size in BEYOND:
        seconds, on_16 = whole * size, (whole - spread * 15 / 16) * size
        memory = max(table[-1]["peak_mib"], per_name * size / PER_IDENTITY / 2**20)
        lists = table[-1]["bytes"] / sizes[-1] * size
        click.echo(
            f"extrapolated to {size:,} rows: {seconds / 60:.0f} min of CPU time, "
            f"{on_16 / 60:.1f} min on 16 cores, "
            f"{memory / 1024:.1f} GiB, {lists / 1e9:.0f} GB of lists"
        )
    if json_file:
        json_file.write_text(json.dumps(record))


if __name__ == "__main__":
    main()
