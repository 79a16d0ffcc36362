"""Small caches, weights and runs that the evaluation tests share."""

from __future__ import annotations

import functools
import json
import shutil
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from tests.cache.builder import build, key
from tests.conftest import kept_folder

from faceguide.cache.reader import FaceCache
from faceguide.train.models import create

ROWS = 60


def small_cache(
    directory: Path, *, rows: int = ROWS, occlusion: bool = True, size: int = 112
) -> FaceCache:
    """`rows` smooth pictures of seven identities; every tenth row failed."""
    build(directory, rows, 32, occlusion=occlusion, size=size)
    return FaceCache.open(directory)


def random_module(name: str, seed: int = 0, **arguments: Any) -> torch.nn.Module:
    """A model with drawn weights, in eval mode.

    A network has seen some pictures, so that its BatchNorms let through what differs between
    images; otherwise all embeddings would be nearly one.
    """
    torch.manual_seed(seed)
    module: torch.nn.Module = create(name, **arguments)
    if hasattr(module, "input_spec"):
        coarse, side = torch.rand(16, 3, 4, 4), module.input_spec.size
        pictures = torch.nn.functional.interpolate(coarse, size=side, mode="bilinear")
        for norm in module.modules():
            if isinstance(norm, torch.nn.modules.batchnorm._BatchNorm):
                norm.momentum = None  # the mean of what was seen
        with torch.no_grad():
            module.train()(module.input_spec.prepare((pictures * 255).byte().permute(0, 2, 3, 1)))
    else:
        with torch.no_grad():
            for tensor in module.parameters():
                tensor.normal_(0.0, 0.2)
    return module.eval()


def weights_file(path: Path, name: str = "mobilefacenet", seed: int = 0, **arguments: Any) -> Path:
    """Random weights as a bare state_dict."""
    shutil.copy(_weights(name, seed, tuple(sorted(arguments.items()))), path)
    return path


@functools.cache
def _weights(name: str, seed: int, arguments: tuple[tuple[str, Any], ...]) -> Path:
    path = kept_folder() / "weights.pt"
    torch.save(random_module(name, seed, **dict(arguments)).state_dict(), path)
    return path


def training_run(directory: Path, **record: Any) -> Path:
    """A run directory with backbone, matcher and occlusion head, as training leaves one."""
    directory.mkdir()
    models = {}
    for seed, (role, name, arguments) in enumerate(
        (
            ("backbone", "mobilefacenet", {}),
            ("matcher", "qaconv", {"channels": 512, "weighting": "common"}),
            ("occlusion_head", "occlusion_head", {"channels": 512}),
        )
    ):
        weights_file(directory / f"{role}.pt", name, seed, **arguments)
        models[role] = {"name": name, "arguments": arguments, "weights": f"{role}.pt"}
    (directory / "run.json").write_text(json.dumps({"models": models, **record}))
    return directory


def pairs_csv(path: Path, lines: list[tuple[int, str, str, int]]) -> Path:
    """A list of pairs in our own layout."""
    rows = [f"{fold},{a},{b},{same}" for fold, a, b, same in lines]
    path.write_text("fold,a,b,same\n" + "\n".join(rows) + "\n")
    return path


def all_pairs(cache: FaceCache) -> list[tuple[int, str, str, int]]:
    """Every two usable faces of a cache, in two folds."""
    rows = cache.select()
    labels = cache.read(rows, ["label"])["label"].tolist()
    faces = list(zip(cache.texts("key", rows.tolist()), labels, strict=True))
    return [
        (number % 2, a, b, int(first == second))
        for number, ((a, first), (b, second)) in enumerate(combinations(faces, 2))
    ]


def usable_pairs(count: int = 60) -> list[tuple[int, str, str, int]]:
    """Pairs over rows that have a face, two folds, half of one person."""
    numbers = [number for number in range(ROWS) if number % 10]
    genuine = [(a, b) for a in numbers for b in numbers if a < b and a % 7 == b % 7]
    impostor = [
        (a, b) for a in numbers for b in numbers if a < b and (a + b) % 5 == 1 and a % 7 != b % 7
    ]
    lines = []
    for place in range(count // 2):
        for same, pairs in ((1, genuine), (0, impostor)):
            a, b = pairs[place * 3]
            lines.append((place % 2, key(a), key(b), same))
    return lines
