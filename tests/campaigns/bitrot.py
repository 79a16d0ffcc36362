"""One flipped bit or a truncation, in every kind of file that is read back.

Each damaged file of a cache must be reported by `cache verify`, and a stream that checks its rows
must refuse it or deliver what it delivered before. Each damaged file of a run must be refused in
one line where it is read. Metrics, pictures, HTML and CSV for people are outside.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tests.cache.builder import build
from tests.campaigns.counts import Campaign, Counts

from faceguide.cache import FaceCache, Stream
from faceguide.cache.inspect.verify import verify
from faceguide.core.commands.run_directory import begin_training, read_run
from faceguide.core.errors import CacheError, FaceguideError
from faceguide.core.files import read_json
from faceguide.core.formats.container import write_arrays
from faceguide.evaluate.attribution.protocol.blocks import TABLE, block_path
from faceguide.evaluate.identification import SEARCH
from faceguide.evaluate.report.report_runs import load_cmc
from faceguide.evaluate.score.block_files import read_block, write_block
from faceguide.evaluate.score.face_store import FaceStore
from faceguide.evaluate.verification import SCORES, load_scores, save_scores
from faceguide.train.data.samplers import GraphBatches
from faceguide.train.models import create
from faceguide.train.models.safetensors_file import write_weights
from faceguide.train.models.weights import read_state
from faceguide.train.run.checkpoint import TrainingState, load_state, save_state

RECIPE = "0" * 64


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: for the table.
        files: those of this kind.
        check: looks at a damaged file as the product does; returns whether it was reported, and
            raises AssertionError where wrong data came through.
    """

    name: str
    files: tuple[Path, ...]
    check: Callable[[Path], bool]


def kinds(folder: Path) -> list[Kind]:
    """All kinds, in files made by the functions that the product writes them with."""
    return [
        *(kind for store in ("raw", "jpeg") for kind in _cache(folder / store, store)),
        *_run(folder / "run"),
        *_evaluation(folder / "evaluation"),
    ]


def _cache(directory: Path, store: str) -> list[Kind]:
    build(directory, rows=40, shard_rows=16, store=store)
    check = partial(_verified, directory, _streamed(directory))
    patterns = {
        "shards faces": "faces-*.h5",
        "shards guidance": "guidance-*.h5",
        "shards occlusion": "occlusion-*.h5",
        "sidecars": "*-0*.json",
        "manifests": "manifest-*.json",
        "recipes": "recipe-*.json",
        "plan.json": "plan.json",
        "identities.txt": "identities.txt",
        "sources": "sources/*",
    }
    if store == "jpeg":  # the others are the same files
        patterns = {"shards faces jpeg": "faces-*.h5"}
    return [
        Kind(name, tuple(sorted(directory.glob(pattern))), check)
        for name, pattern in patterns.items()
    ]


def _streamed(directory: Path) -> list[dict[str, NDArray[Any]]]:
    cache = FaceCache.open(directory)
    stream = Stream(
        cache,
        np.arange(len(cache)),
        columns=cache.columns,
        batch_size=20,
        shuffle=False,
        ragged="exact",
        threads=1,
        copy=True,
    )
    return [{name: value.numpy() for name, value in batch.items()} for batch in stream]


def _verified(directory: Path, before: list[dict[str, NDArray[Any]]], path: Path) -> bool:
    with contextlib.suppress(FaceguideError):
        after = _streamed(directory)
        for one, other in zip(before, after, strict=True):
            for name, values in one.items():
                same = values.tobytes() == other[name].tobytes()
                assert same, f"streaming gave another {name} without a word"
    try:
        problems, _ = verify(directory)
    except CacheError as error:
        problems = [str(error)]
    assert all("\n" not in problem for problem in problems)
    return bool(problems)


def _refused(read: Callable[[Path], object], path: Path) -> bool:
    try:
        read(path)
    except FaceguideError as error:
        text = str(error)
        assert "\n" not in text
        assert str(path.parent) in text, f"the file is not named: {text}"
        return True
    return False


def _run(directory: Path) -> list[Kind]:
    directory.mkdir(parents=True)
    torch.manual_seed(0)
    module = create("occlusion_head", channels=16)
    optimiser = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)
    module(torch.rand(2, 16, 7, 7)).sum().backward()
    optimiser.step()
    state = TrainingState(
        1, 0.5, False, module.state_dict(), optimiser.state_dict(), {},
        {"epoch": 0, "batch": 1}, RECIPE,
    )  # fmt: skip
    for name in ("last.pt", "best.pt"):
        save_state(directory / name, state)
    weights = {key: value.contiguous() for key, value in module.state_dict().items()}
    write_weights(directory / "backbone.safetensors", weights, "occlusion_head", {"channels": 16})
    begin_training(directory, "train cal", {"seed": 0}, fixed={"seed": 0}, argv=["train", "cal"])
    rows, labels = np.arange(24), np.arange(24) // 4

    def graph(path: Path) -> object:
        alike = lambda chosen: np.eye(len(chosen), dtype=np.float32)  # noqa: E731
        return GraphBatches(rows, labels, 8, similarity=alike, keep=path).neighbours()

    graph(directory / "neighbours.safetensors")
    both = [lambda path: read_json(path), lambda path: read_run(path.parent)]
    return [
        Kind(
            "checkpoints",
            (directory / "last.pt", directory / "best.pt"),
            partial(_refused, lambda path: load_state(path, RECIPE)),
        ),
        Kind("safetensors", (directory / "backbone.safetensors",), partial(_refused, read_state)),
        Kind(
            "run.json",
            (directory / "run.json",),
            lambda path: all(_refused(read, path) for read in both),
        ),
        Kind("neighbours", (directory / "neighbours.safetensors",), partial(_refused, graph)),
    ]


def _evaluation(directory: Path) -> list[Kind]:
    directory.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = np.arange(0, 60, 2)
    key = {"cache": "a", "weights": "b"}
    columns = {
        "embedding": rng.random((30, 8), np.float32),
        "norm": rng.random(30, np.float32),
    }
    FaceStore.open(directory, key).add("embedding", rows, columns)
    blocks = tuple(directory.glob("embeddings-*/embedding/*.safetensors"))

    def stored(path: Path) -> object:
        store = FaceStore.open(directory, key)
        assert store.missing("embedding", rows).size == 0, "rows were taken for missing"
        return [store.read(name, rows) for name in columns]

    key_file = blocks[0].parent.with_name("key.json")
    table = block_path(directory, TABLE, 0)
    write_block(table, "k", {"maps": rng.random((4, 7, 7), np.float32), "pair": np.arange(4)})
    place = np.arange(4)
    save_scores(
        directory,
        listed="0" * 64,
        number=place,
        probe=place,
        reference=place,
        same=place % 2 == 0,
        score=rng.random(4),
        correct=place >= 0,
        people=np.stack([place, place], 1),
    )
    write_arrays(directory / SEARCH, {"rank": place})
    return [
        Kind("embeddings", (*blocks, key_file), partial(_refused, stored)),
        Kind("attribution blocks", (table,), partial(_refused, lambda at: read_block(at, "k"))),
        Kind(
            "scores", (directory / SCORES,),
            partial(_refused, lambda path: load_scores(path.parent)),
        ),
        Kind("search", (directory / SEARCH,), partial(_refused, lambda at: load_cmc(at.parent))),
    ]  # fmt: skip


def damage(path: Path, rng: np.random.Generator) -> str:
    """Flip one random bit, or in one case of five cut the file; says what was done."""
    data = path.read_bytes()
    if rng.random() < 0.2:
        left = int(rng.integers(0, len(data)))
        path.write_bytes(data[:left])
        return f"cut to {left} of {len(data)} bytes"
    place, bit = int(rng.integers(0, len(data))), int(rng.integers(0, 8))
    damaged = bytearray(data)
    damaged[place] ^= 1 << bit
    path.write_bytes(damaged)
    return f"bit {bit} of byte {place} of {len(data)}"


def campaign(count: int, seed: int, folder: Path) -> Counts:
    """Damage `count` files, the kinds in turn, one at a time."""
    every = kinds(folder)
    rng = np.random.default_rng(seed)
    found = survived = crashes = 0
    details: Counter[str] = Counter()
    failures = []
    for number in range(count):
        kind = every[number % len(every)]
        path = kind.files[int(rng.integers(0, len(kind.files)))]
        whole = path.read_bytes()
        what = damage(path, rng)
        details[kind.name] += 1
        try:
            reported = kind.check(path)
            fault = None if reported else "nobody noticed"
        except AssertionError as error:
            reported, fault = False, str(error)
        except Exception as error:
            reported, fault = False, f"{type(error).__name__}: {error}"
            crashes += 1
        found += reported
        survived += fault is None
        if fault:
            failures.append(f"{kind.name}: {path.name}: {what}: {fault}")
        path.write_bytes(whole)
    return Counts(
        injected=count,
        survived=survived,
        found=found,
        crashes=crashes,
        details=dict(details),
        failures=tuple(failures),
    )


CAMPAIGNS = {"bit rot": Campaign(campaign, 1000)}
