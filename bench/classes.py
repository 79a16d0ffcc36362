"""What recognition among very many identities costs: time per step and memory per process.

    python bench/classes.py --classes 1000000 --json classes.json

Each head compares the embeddings of a batch with a sample of the class centres, forward, backward
and update, without a backbone; one process, then two that share the centres (gloo). Time is the
processor's, which other work on the machine disturbs less than the clock. Memory is the most that
a process held, less what it held with torch loaded and nothing made.
"""

from __future__ import annotations

import json
import resource
import socket
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import torch
from torch import multiprocessing, nn

from faceguide.core.files import write_bytes
from faceguide.train.distributed import Processes, barrier, joined
from faceguide.train.models import create
from faceguide.train.oaml.class_centres import ClassCentres
from faceguide.train.oaml.sampled_classes import SampledClasses

CPU = torch.device("cpu")


def held() -> float:
    """GB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def measure(head: str, processes: Processes, asked: dict[str, Any]) -> dict[str, float]:
    """Processor seconds per step, the median, and GB of this process."""
    before = held()
    margin = create(head, num_classes=1, embedding_size=1).train()
    margin.kernel = None
    centres = ClassCentres(asked["classes"], asked["numbers"], 0, processes, CPU)
    sampled = SampledClasses(margin, centres, asked["sample"], 0, 5e-4)
    seconds = []
    for step in range(asked["steps"] + 1):
        raw = torch.randn(asked["batch"], asked["numbers"]) * 3
        unit = nn.functional.normalize(raw, dim=1).requires_grad_()
        label = torch.randint(asked["classes"], (asked["batch"],))
        barrier()
        start = time.process_time()
        sampled(unit, raw.norm(dim=1, keepdim=True), label, step).loss.backward()
        sampled.update(0.1)
        seconds.append(time.process_time() - start)
    return {"seconds": statistics.median(seconds[1:]), "gigabytes": held() - before}


def work(
    rank: int, world: int, port: int, threads: int, head: str, asked: dict[str, Any], folder: str
) -> None:
    """One of the processes."""
    torch.set_num_threads(threads)
    processes = Processes(rank, world, rank, "127.0.0.1", port)
    with joined(processes, CPU):
        found = measure(head, processes, asked)
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))


@click.command()
@click.option("--classes", default=1_000_000, show_default=True, help="Identities.")
@click.option("--numbers", default=512, show_default=True, help="In an embedding.")
@click.option("--sample", default=0.1, show_default=True, help="As --sample-classes takes it.")
@click.option("--batch", default=64, show_default=True, help="Faces of each process.")
@click.option("--steps", default=5, show_default=True, help="That are timed.")
@click.option("--threads", default=1, show_default=True, help="Of torch, in each process.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the figures here.")
def main(out: Path | None, threads: int, **asked: Any) -> None:
    """Time and memory of the three heads, in one process and in two."""
    rows = []
    click.echo("head      processes  s per step  GB per process")
    for head in ("adaface", "arcface", "cosface"):
        for world in (1, 2):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            with tempfile.TemporaryDirectory() as folder:
                given = (world, port, threads, head, asked, folder)
                multiprocessing.spawn(work, given, nprocs=world)
                each = [json.loads(path.read_text()) for path in Path(folder).iterdir()]
            row = {"head": head, "processes": world}
            row |= {name: max(one[name] for one in each) for name in ("seconds", "gigabytes")}
            rows.append(row)
            click.echo(f"{head:8}  {world:9}  {row['seconds']:10.2f}  {row['gigabytes']:14.2f}")
    if out is not None:
        write_bytes(out, json.dumps({**asked, "threads": threads, "rows": rows}).encode())


if __name__ == "__main__":
    main()
