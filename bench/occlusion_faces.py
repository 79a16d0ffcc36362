"""Faces of bench/occlusion.py: real photographs, drawn covers of a fixed place, cached maps."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faceguide.cache import FaceCache
from faceguide.train.data.niqab import niqab_on
from faceguide.train.data.occluders import Occluders, draw
from faceguide.train.models.backbones.backbone import FaceBackbone

# Covers of the test, in pixels of the 112×112 crop: (left, top, right, bottom). They are drawn by
# other rules than those of training. `band` leaves the box free and covers the rest.
COVERS = {
    "lower": (0, 62, 112, 112),
    "band": (14, 36, 98, 66),
    "eyes": (0, 36, 112, 66),
    "random": (0, 0, 64, 64),
    "half": (0, 0, 56, 112),
}
NIQAB = "niqab"  # further cover: the drawn one, laid on by the landmarks
TRAINING_DRAWS = 4


@dataclass
class Faces:
    """N faces: maps (N, C, 7, 7) float16, visibility (N, 7, 7), identity (N,), name (N,)."""

    maps: Tensor
    visibility: Tensor
    person: NDArray[np.int64]
    name: list[str]

    def at(self, places: NDArray[np.int64] | list[int]) -> Faces:
        """The faces at these places."""
        index = torch.as_tensor(np.asarray(places))
        return Faces(
            self.maps[index],
            self.visibility[index],
            self.person[np.asarray(places)],
            [self.name[place] for place in np.asarray(places)],
        )


def join(parts: list[Faces]) -> Faces:
    return Faces(
        torch.cat([part.maps for part in parts]),
        torch.cat([part.visibility for part in parts]),
        np.concatenate([part.person for part in parts]),
        [name for part in parts for name in part.name],
    )


def prepared(work: Path, name: str, *commands: list[str]) -> FaceCache:
    """A cache made by the product's own commands, once."""
    out = work / name
    for command in commands:
        arguments = [*command[:2], *command[2:], "--jobs", "1", "--allow-failures"]
        subprocess.run(
            [sys.executable, "-m", "faceguide", *arguments], check=True, stdout=sys.stderr
        )
    return FaceCache.open(out)


def lfw_faces(data: Path, work: Path) -> FaceCache:
    folder = next(iter(sorted(data.glob("lfw112*"))))
    return prepared(
        work, "lfw",
        ["prep", "landmarks", f"{folder}/images", "--out", f"{work}/lfw", "--align", "none"],
    )  # fmt: skip


def fold_faces(data: Path, work: Path, fold: int) -> FaceCache:
    """A cache of the identities of one LFW fold."""
    photographs = work / f"fold-{fold}-photographs"
    if not photographs.exists():
        folder = next(iter(sorted(data.glob("lfw112*"))))
        for person in sorted(name for name, number in folds(data).items() if number == fold):
            shutil.copytree(folder / "images" / person, photographs / person)
    name = f"fold-{fold}"
    return prepared(
        work, name,
        ["prep", "landmarks", str(photographs), "--out", f"{work}/{name}", "--align", "none"],
    )  # fmt: skip


def masked_faces(data: Path, work: Path) -> FaceCache:
    """Photographs with surgical masks and their masks: what the head learns real covers from."""
    folder = next(iter(sorted(data.glob("maskedface_seg*"))))
    return prepared(
        work, "masked",
        ["prep", "landmarks", f"{folder}/images", "--out", f"{work}/masked", "--flat"],
        ["prep", "masks", f"{folder}/masks", "--cache", f"{work}/masked", "--class", "0,128,0",
         "--polarity", "occluded"],
    )  # fmt: skip


def probe_faces(probes: Path, work: Path) -> FaceCache:
    return prepared(
        work, "probes",
        ["prep", "landmarks", f"{probes}/images", "--out", f"{work}/probes"],
    )  # fmt: skip


def masked_in_labels(probes: Path) -> dict[str, bool]:
    """Key of an image → whether its face wears a mask."""
    with (probes / "labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {
        f"{row['identity']}/{row['identity']}_{int(row['number']):04d}": row["mask"] != "no-mask"
        for row in rows
    }


def folds(data: Path) -> dict[str, int]:
    """Identity → LFW fold, from pairs.csv."""
    folder = next(iter(sorted(data.glob("lfw112*"))))
    fold: dict[str, int] = {}
    with (folder / "pairs.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for key in (row["a"], row["b"]):
                fold[key.split("/")[0]] = int(row["fold"])
    return fold


@torch.inference_mode()
def feature_maps(backbone: FaceBackbone, images: NDArray[np.uint8]) -> Tensor:
    """(N, 112, 112, 3) → (N, C, 7, 7) float16."""
    parts = []
    for start in range(0, len(images), 32):
        pixels = backbone.input_spec.prepare(images[start : start + 32])
        parts.append(backbone.feature_map(pixels).half())
    return torch.cat(parts)


def kept(path: Path, make) -> tuple[Tensor, Tensor]:
    """Maps and visibility out of a file, made when it is not there."""
    if not path.exists():
        maps, seen = make()
        np.save(path.with_suffix(".seen.npy"), seen.numpy().astype(np.float16))
        np.save(path, maps.numpy())
    return (
        torch.from_numpy(np.load(path)),
        torch.from_numpy(np.load(path.with_suffix(".seen.npy")).astype(np.float32)),
    )


def plain(backbone: FaceBackbone, cache: FaceCache, rows: NDArray[np.int64], path: Path) -> Faces:
    """Faces as they are; visibility from the cache where it is known, else all visible."""

    def make() -> tuple[Tensor, Tensor]:
        images = cache.read(rows, ["image"])["image"]
        seen = np.ones((len(rows), 7, 7), np.float32)
        if "visibility" in cache.columns:
            seen = cache.read(rows, ["visibility"])["visibility"].astype(np.float32)
        return feature_maps(backbone, images), torch.from_numpy(seen)

    return _faces(cache, rows, *kept(path, make))


def covered(
    backbone: FaceBackbone, cache: FaceCache, rows: NDArray[np.int64], cover: str, path: Path
) -> Faces:
    """Faces under a cover of the test, with its exact visibility."""

    def make() -> tuple[Tensor, Tensor]:
        batch = cache.read(rows, ["image", "landmarks"])
        images = batch["image"].copy()
        seen = np.ones((len(rows), 112, 112), np.float32)
        for place, row in enumerate(rows.tolist()):
            if cover == NIQAB:
                points = batch["landmarks"][place, :, :2] * 112.0
                if np.isfinite(points).all():
                    cloth, share = niqab_on(points, 112, (7, row))
                    mixed = images[place] * (1 - share[..., None]) + cloth * share[..., None]
                    images[place], seen[place] = np.rint(mixed).astype(np.uint8), 1 - share
                continue
            rng = np.random.default_rng([7, row, list(COVERS).index(cover)])
            left, top, right, bottom = COVERS[cover]
            if cover == "random":
                x, y = rng.integers(0, 112 - 64, 2)
                left, top, right, bottom = x, y, x + 64, y + 64
            hidden = np.zeros((112, 112), bool)
            hidden[top:bottom, left:right] = True
            if cover == "band":
                hidden = ~hidden
            cloth = rng.uniform(0, 255, 3) + rng.normal(0, 6, (112, 112, 1))
            images[place][hidden] = np.clip(cloth, 0, 255).astype(np.uint8)[hidden]
            seen[place][hidden] = 0.0
        cells = seen.reshape(len(rows), 7, 16, 7, 16).mean((2, 4))
        return feature_maps(backbone, images), torch.from_numpy(cells)

    return _faces(cache, rows, *kept(path, make))


def drawn(
    backbone: FaceBackbone,
    cache: FaceCache,
    rows: NDArray[np.int64],
    number: int,
    kinds: tuple[str, ...],
    path: Path,
) -> Faces:
    """Faces under the covers of training."""

    def make() -> tuple[Tensor, Tensor]:
        batch = cache.read(rows, ["image", "landmarks"])
        images, seen = draw(
            Occluders(kinds, 1.0),
            torch.from_numpy(batch["image"]),
            torch.from_numpy(batch["landmarks"]),
            torch.ones(len(rows), 7, 7),
            seed=0,
            epoch=number,
            rows=torch.from_numpy(rows),
        )
        return feature_maps(backbone, images.numpy()), seen

    return _faces(cache, rows, *kept(path, make))


def _faces(cache: FaceCache, rows: NDArray[np.int64], maps: Tensor, seen: Tensor) -> Faces:
    labels = cache.read(rows, ["label"])["label"]
    return Faces(maps, seen, labels, cache.texts("key", rows))
