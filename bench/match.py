"""QAConv over a gallery: pairs per second and memory of `match` next to the plain way.

    python bench/match.py --probes 256 --gallery 256 --data DATA --json match.json

The plain way is the one that a paper's formula suggests: all correlations of all pairs in one
tensor, two maxima with their indices, then the BatchNorms and the location weights as they stand.
`compiled` lets torch.compile make one kernel of the two maxima. Time is the median of --rounds,
taken in turn after a first round that compiles, with one thread processor time. Memory is what a
fresh process needs at its peak beyond its inputs and what a block of the same kind had needed
before (--memory-probes × --memory-gallery, 0 = not measured; the plain way needs 11 GB for 1,000 ×
1,000). With --data (a folder with lfw112_dev and weights/mobilefacenet.pt) the maps are those of
real faces and rank-1 is that of their identities, else random maps are told apart from their noisy
copies.

On CUDA, TFLOP/s of the products are printed next to those of one large bfloat16 matrix product.
That part has never run: no GPU was at hand when it was written.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from faceguide.train.models import create
from faceguide.train.models.matchers import matching
from faceguide.train.models.matchers.correlation import cell_vectors
from faceguide.train.models.matchers.matching import match
from faceguide.train.models.matchers.qaconv import QAConv

WAYS = ("plain", "match fp32", "match bf16", "match fp32 compiled", "match bf16 compiled")


@torch.inference_mode()
def plain(matcher: QAConv, probe: Tensor, gallery: Tensor) -> Tensor:
    """All correlations at once, maxima with indices, layers as they are."""
    p, g = cell_vectors(probe), cell_vectors(gallery)
    correlation = torch.einsum("psc,grc->pgrs", p, g)
    best_probe = correlation.max(2)[0]
    best_gallery = correlation.max(3)[0]
    best = torch.cat([best_probe, best_gallery], -1)
    normed = matcher.bn(best.reshape(-1, 1)).reshape(best.shape)
    first, second = normed.chunk(2, -1)
    total = matcher.fc(first) + matcher.fc(second)
    return matcher.logit_bn(total.reshape(-1, 1)).reshape(total.shape[:2])


def score(way: str, matcher: QAConv, probe: Tensor, gallery: Tensor) -> Tensor:
    if way == "plain":
        return plain(matcher, probe, gallery)
    dtype = torch.bfloat16 if "bf16" in way else torch.float32
    return match(matcher, probe, gallery, dtype=dtype, compile=way.endswith("compiled"))


def a_matcher() -> QAConv:
    torch.manual_seed(0)
    matcher: QAConv = create("qaconv")
    return matcher.eval().requires_grad_(False)


def random_faces(count: int, seed: int) -> Tensor:
    return torch.randn(count, 512, 7, 7, generator=torch.Generator().manual_seed(seed))


def real_faces(data: Path, probes: int, gallery: int) -> tuple[Tensor, Tensor, Tensor]:
    """Probe maps, gallery maps, and whether they are of one identity."""
    import cv2
    import numpy as np

    from faceguide.train.models.weights import load_weights

    backbone = create("mobilefacenet")
    load_weights(backbone, data / "weights" / "mobilefacenet.pt")
    backbone.eval()
    folder = next(iter(sorted(data.glob("lfw112*"))))
    by_person: dict[str, list[Path]] = {}
    for path in sorted((folder / "images").glob("*/*.jpg")):
        by_person.setdefault(path.parent.name, []).append(path)
    several = [paths for paths in by_person.values() if len(paths) > 1]
    first = [paths[0] for paths in several]
    asked = [path for paths in several for path in paths[1:]][:probes]
    others = [paths[0] for paths in by_person.values() if len(paths) == 1]
    known = (first + others)[:gallery]

    @torch.inference_mode()
    def maps(paths: list[Path]) -> Tensor:
        parts = []
        for start in range(0, len(paths), 32):
            images = [cv2.imread(str(path))[..., ::-1] for path in paths[start : start + 32]]
            parts.append(backbone.feature_map(backbone.input_spec.prepare(np.stack(images))))
        return torch.cat(parts)

    same = torch.tensor([[a.parent == b.parent for b in known] for a in asked])
    return maps(asked), maps(known), same


def measured_memory(way: str, probes: int, gallery: int) -> int:
    """Bytes that a fresh process needs at its peak beyond inputs and libraries."""
    arguments = [sys.executable, __file__, "--one", way]
    arguments += ["--probes", str(probes), "--gallery", str(gallery)]
    found = subprocess.run(arguments, capture_output=True, text=True, check=True)
    return int(found.stdout)


def peak() -> int:
    """Bytes at the peak of this process; getrusage would count those of its parent too."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def matrix_rate(device: torch.device) -> float:
    """TFLOP/s of a large bfloat16 matrix product."""
    a = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    for _ in range(3):
        a @ a
    torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(20):
        a @ a
    torch.cuda.synchronize()
    return 20 * 2 * 8192**3 / (time.perf_counter() - begun) / 1e12


@click.command(help=__doc__.splitlines()[0])
@click.option("--probes", default=256, show_default=True)
@click.option("--gallery", default=256, show_default=True)
@click.option("--memory-probes", default=1000, show_default=True)
@click.option("--memory-gallery", default=1000, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--data", type=click.Path(exists=True, path_type=Path))
@click.option("--json", "out", type=click.Path(path_type=Path))
@click.option("--one", hidden=True)
def main(
    probes: int,
    gallery: int,
    memory_probes: int,
    memory_gallery: int,
    rounds: int,
    threads: int,
    device: str,
    data: Path | None,
    out: Path | None,
    one: str | None,
) -> None:
    torch.set_num_threads(threads)
    if one is not None:
        matcher = a_matcher()
        first, second = random_faces(probes, 1), random_faces(gallery, 2)
        # Libraries and their buffers, and what is compiled for blocks of this size.
        size = 2 if "bf16" in one else 4
        rows, columns = matching._block_sizes(gallery, 49, size, torch.device("cpu"))
        score(one, matcher, first[:8], second[:64])
        if one.endswith("compiled"):
            score(one, matcher, first[:rows], second[:columns])
        before = peak()
        score(one, matcher, first, second)
        click.echo(peak() - before)
        return
    where = torch.device(device)
    matcher = a_matcher().to(where)
    if data is not None:
        probe, known, same = real_faces(data, probes, gallery)
    else:
        known = random_faces(gallery, 2)
        probe = known[:probes] + 2.0 * random_faces(len(known[:probes]), 1)
        same = torch.eye(len(probe), len(known), dtype=torch.bool)
    probe, known = probe.to(where), known.to(where)
    pairs = len(probe) * len(known)
    # Processor time of one thread is what a machine without other work would take.
    clock = time.process_time if threads == 1 and where.type == "cpu" else time.perf_counter
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    scores: dict[str, Tensor] = {}
    for turn in range(rounds + 1):
        for way in WAYS:
            begun = clock()
            scores[way] = score(way, matcher, probe, known)
            if where.type == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first round warms up
                times[way].append(clock() - begun)
    rows: list[dict[str, Any]] = []
    for way in WAYS:
        seconds = statistics.median(times[way])
        best = scores[way].cpu().argmax(1)
        row: dict[str, Any] = {
            "way": way,
            "pairs_per_second": pairs / seconds,
            "speed": statistics.median(times["plain"]) / seconds,
            "rank1": float(same[torch.arange(len(best)), best].float().mean()),
            "same_first": float((best == scores["plain"].cpu().argmax(1)).float().mean()),
            "largest_difference": float((scores[way] - scores["plain"]).abs().max()),
        }
        if where.type == "cuda":
            row["tflops"] = pairs * 2 * 512 * 49 * 49 / seconds / 1e12
        elif memory_probes and memory_gallery:
            row["memory"] = measured_memory(way, memory_probes, memory_gallery)
        rows.append(row)
    rate = matrix_rate(where) if where.type == "cuda" else None
    kind = "real" if data else "random"
    click.echo(f"{len(probe)} × {len(known)} {kind} faces, 7×7×512, {threads} thread(s), {device}")
    click.echo("| way | pairs/s | speed | rank-1 | same first | memory / TFLOP/s |")
    click.echo("|---|---|---|---|---|---|")
    for row in rows:
        last = f"{row['tflops']:.0f}" if "tflops" in row else "–"
        if "memory" in row:
            last = f"{row['memory'] / 2**20:,.0f} MiB"
        click.echo(
            f"| {row['way']} | {row['pairs_per_second']:,.0f} | {row['speed']:.2f} | "
            f"{row['rank1']:.3f} | {row['same_first']:.3f} | {last} |"
        )
    if rate is not None:
        click.echo(f"bfloat16 matrix product: {rate:.0f} TFLOP/s")
    if out is not None:
        out.write_text(json.dumps({"rows": rows, "pairs": pairs, "matrix_tflops": rate}, indent=1))


if __name__ == "__main__":
    main()
