"""What a face costs in `evaluate embed`, beside ONNX Runtime and OpenVINO on the same network.

    python bench/embed.py --json embed.json

Weights are random: they cost what trained ones do. Each contender is a process of its own with the
same number of threads, and embeds every face and its mirror image, as the command does:

* `faceguide`: the command as a whole, with reading and writing. It runs over a small cache and a
  large one: a face costs the difference of their times by that of their faces; the time of the
  small one is the warm-up (imports, weights, tracing).
* `faceguide bf16`: the same with `--precision bf16`.
* `forward`: the same forward passes on pixels in memory, without the command.
* `onnxruntime`, `openvino`, `openvino bf16`: forward passes on pixels in memory, of the network
  as `train export` writes it, in batches of 8, 16 and 64, whichever is faster.

Contenders take turns. A figure is the lowest of all rounds; the ratio to ONNX Runtime is the
median of each round's ratio.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np
from stream_samples import build_cache, write_samples
from tqdm import tqdm

from faceguide.cache.reader import FaceCache
from faceguide.core.files import write_bytes

FEW, SECONDS = 64, 2.0
BF16 = "faceguide bf16", "openvino bf16"
CONTENDERS = ("faceguide", BF16[0], "forward", "onnxruntime", "openvino", BF16[1])


# Contenders: seconds of a face, and of the warm-up ------------------------------------------------


def command(folder: Path, network: str, precision: str) -> tuple[float, float]:
    """`evaluate embed`, in this process."""
    from faceguide.evaluate.cli import main as evaluate

    def seconds(cache: str) -> float:
        with tempfile.TemporaryDirectory() as out:
            words = [
                "embed", str(folder / cache), "--weights", str(folder / f"{network}.safetensors"),
                "--out", f"{out}/faces", "--precision", precision, "--json",
            ]  # fmt: skip
            began = time.perf_counter()
            evaluate(words, standalone_mode=False)
            return time.perf_counter() - began

    first = seconds("few")  # imports
    few, many = seconds("few"), seconds("many")
    faces = [len(FaceCache.open(folder / cache).select()) for cache in ("few", "many")]
    return (many - few) / (faces[1] - faces[0]), first


def repeated(run: Callable[[int], object]) -> tuple[float, float]:
    """A pass over so many faces and their mirror images, in the best of three batch sizes."""
    began = time.perf_counter()
    run(16)
    warm, best = time.perf_counter() - began, float("inf")
    for batch in (8, 16, 64):
        until = time.perf_counter() + SECONDS
        while time.perf_counter() < until:
            began = time.perf_counter()
            run(batch)
            run(batch)
            best = min(best, (time.perf_counter() - began) / batch)
    return best, warm


def forward(folder: Path, network: str) -> tuple[float, float]:
    """The passes of `evaluate embed`, on all threads."""
    import torch
    from joblib import Parallel, delayed

    from faceguide.core.commands.allocator import keep_freed_memory
    from faceguide.evaluate.score.quick_forward import quickened, workers_of
    from faceguide.train.models.loading.network import load_network

    keep_freed_memory()
    loaded = load_network(None, folder / f"{network}.safetensors")
    images = torch.from_numpy(pictures(folder))
    quick = quickened(loaded)
    workers = workers_of(loaded)

    def one(batch: int) -> None:
        torch.set_num_threads(1)
        with torch.inference_mode():
            quick.backbone.forward_all(quick.input_spec.prepare(images[:batch]))

    pool = Parallel(n_jobs=workers, backend="threading")

    def run(batch: int) -> None:
        pool(delayed(one)(batch) for _ in range(workers))

    per_face, warm = repeated(run)
    return per_face / workers, warm


def onnxruntime(folder: Path, network: str, threads: int) -> tuple[float, float]:
    """ONNX Runtime on the CPU."""
    import onnxruntime as runtime

    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    session = runtime.InferenceSession(
        str(folder / f"{network}.onnx"), options, providers=["CPUExecutionProvider"]
    )
    given = session.get_inputs()[0].name
    images = pictures(folder).transpose(0, 3, 1, 2).astype(np.float32)
    return repeated(lambda batch: session.run(None, {given: images[:batch]}))


def openvino(folder: Path, network: str, threads: int, kind: str) -> tuple[float, float]:
    """OpenVINO on the CPU, for throughput."""
    import openvino as vino

    model = vino.Core().compile_model(
        str(folder / f"{network}.onnx"),
        "CPU",
        {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": kind},
    )
    images = pictures(folder).transpose(0, 3, 1, 2).astype(np.float32)
    return repeated(lambda batch: model([images[:batch]]))


def pictures(folder: Path) -> Any:
    """64 crops of the cache."""
    cache = FaceCache.open(folder / "few")
    return cache.read(cache.select()[:64], ["image"])["image"]


def contend(folder: Path, network: str, name: str, threads: int) -> tuple[float, float]:
    """One contender in this process."""
    match name:
        case "faceguide":
            return command(folder, network, "float32")
        case "faceguide bf16":
            return command(folder, network, "bf16")
        case "forward":
            return forward(folder, network)
        case "onnxruntime":
            return onnxruntime(folder, network, threads)
        case "openvino":
            return openvino(folder, network, threads, "f32")
    return openvino(folder, network, threads, "bf16")


# The contest --------------------------------------------------------------------------------------


def make(folder: Path, networks: tuple[str, ...], faces: int) -> None:
    """Caches and weights."""
    import torch

    from faceguide.train.cli import main as train
    from faceguide.train.models import create
    from faceguide.train.models.backbones.backbone import FaceBackbone
    from faceguide.train.models.safetensors_file import write_weights

    write_samples(folder / "samples.npy", FEW + faces)
    samples = np.load(folder / "samples.npy", mmap_mode="r")
    build_cache(folder / "few", samples[:FEW], shards=1)
    build_cache(folder / "many", samples, shards=1)
    for network in networks:
        torch.manual_seed(0)
        weights = folder / f"{network}.safetensors"
        module = create(network)
        assert isinstance(module, FaceBackbone)
        write_weights(weights, module.state_dict(), network, {}, module.input_spec)
        train(
            ["export", str(weights), "--onnx", str(weights.with_suffix(".onnx"))],
            standalone_mode=False,
        )


def turn(folder: Path, network: str, name: str, threads: int) -> tuple[float, float]:
    """One contender in a process of its own."""
    words = [sys.executable, __file__, "--contender", name, str(folder), network, str(threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} on {network}: {done.stderr.strip().splitlines()[-1]}")
    seconds, warm = json.loads(done.stdout.splitlines()[-1])
    return seconds, warm


def table(found: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| network | threads | contender | ms per face | of ONNX Runtime's | warm-up, s |",
        "|---|---|---|---|---|---|",
    ]
    for one in found:
        ratio = one["of_onnxruntime"]
        cells = [
            one["network"], one["threads"], one["name"], f"{one['ms_per_face']:.2f}",
            "–" if ratio is None else f"{ratio:.2f}", f"{one['warm_up']:.1f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


@click.command()
@click.option("--json", "out", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--network", "networks", multiple=True, default=("mobilefacenet", "ir_18", "ir_50", "vit_s")
)
@click.option("--threads", multiple=True, type=int, default=(1, 2))
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--faces", type=click.IntRange(64), default=512, show_default=True)
@click.option("--contender", nargs=4, type=str, hidden=True)
def main(
    out: Path | None,
    networks: tuple[str, ...],
    threads: tuple[int, ...],
    rounds: int,
    faces: int,
    contender: tuple[str, str, str, str] | None,
) -> None:
    """Time `evaluate embed` beside what users would take instead."""
    if contender is not None:
        name, folder, network, count = contender
        print(json.dumps(contend(Path(folder), network, name, int(count))))
        return
    found: list[dict[str, Any]] = []
    there = [name for name in CONTENDERS if "openvino" not in name or find_spec("openvino")]
    if len(there) < len(CONTENDERS):
        click.echo("openvino is not installed and left out", err=True)
    with tempfile.TemporaryDirectory() as made:
        make(Path(made), networks, faces)
        plays = [(network, count) for network in networks for count in threads]
        for network, count in tqdm(plays, disable=None):
            results: dict[str, list[tuple[float, float]]] = {name: [] for name in there}
            for _ in range(rounds):
                for name in there:
                    results[name].append(turn(Path(made), network, name, count))
            base = [seconds for seconds, _ in results["onnxruntime"]]
            for name, values in results.items():
                ratios = [seconds / other for (seconds, _), other in zip(values, base, strict=True)]
                found.append(
                    {
                        "network": network, "name": name, "threads": count,
                        "ms_per_face": 1e3 * min(seconds for seconds, _ in values),
                        "of_onnxruntime": statistics.median(ratios),
                        "warm_up": min(warm for _, warm in values),
                    }
                )  # fmt: skip
    if out is not None:
        write_bytes(out, (json.dumps({"contenders": found}, indent=1) + "\n").encode())
    click.echo(table(found))


if __name__ == "__main__":
    main()
