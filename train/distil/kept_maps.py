"""Maps of the frozen layers, computed once and kept on disk, and the answers to learn.

Every version of a face (as it is, under covers, in other surrounds) is one array file in a folder
that is named after all that its maps depend on. Versions with an odd number are mirrored, so that
a batch can be. Files are memory-mapped; a killed run keeps those that are whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from faceguide.core.commands.console import say
from faceguide.core.errors import TrainError
from faceguide.core.files import digest, replacing, write_json
from faceguide.core.formats.container import read_arrays, write_arrays
from faceguide.train.distil.alterations import DRAWS, REVISION, Alterations, Images
from faceguide.train.distil.distil_trainee import DistilTrainee
from faceguide.train.distil.frozen_layers import before
from faceguide.train.models.backbones.backbone import keypoints_of, mirrored_points

TOGETHER = 64  # faces of a forward pass
_TARGETS = "targets.safetensors"
_REMEDY = "remove the folder to compute it once more"


@dataclass(frozen=True)
class KeptMaps:
    """Maps of N faces before the trained layers, and what the released network makes of them.

    Attributes:
        clean: 2 arrays (N, …) float16, as they are and mirrored.
        cover, surround: 5 each, those with an odd number mirrored; empty where not asked for.
        targets: `whole` (2, N, E), the sum of the cell terms of the unaltered face, as it is and
            mirrored; `raw` likewise, its raw embedding; `mean`, see `DistilTrainee`; with covers
            `seen` (5, N, S), the cells that each leaves visible, and `part` (5, N, E), the sum
            over these.
        keypoints: (2, N, 5, 2) or None.
    """

    clean: list[NDArray[np.float16]]
    cover: list[NDArray[np.float16]]
    surround: list[NDArray[np.float16]]
    targets: Mapping[str, NDArray[Any]]
    keypoints: NDArray[np.float32] | None


def folder_of(parent: Path, depends: Mapping[str, Any]) -> Path:
    """The folder of maps that depend on these settings."""
    return parent / digest({**depends, "revision": REVISION})[:16]


def keep_maps(
    folder: Path,
    depends: Mapping[str, Any],
    trainee: DistilTrainee,
    alterations: Alterations,
    count: int,
    kinds: tuple[str, ...],
    device: torch.device,
) -> None:
    """Compute what is missing of the maps, and the answers; the mean map goes to the trainee.

    Args:
        depends: all that they depend on, for whoever wonders what the folder is.
        trainee: with the released weights.
        count: N.
        kinds: "cover" and "surround", or fewer.

    Raises:
        TrainError: when the disk has no room for them.
        CacheError: when it fails.
    """
    wanted = _files(folder, kinds)
    missing = {path: what for path, what in wanted.items() if not path.exists()}
    shape = trainee.map_shape
    size = 2 * count * int(np.prod(shape))
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if size * len(missing) > free:
        raise TrainError(
            f"{folder}: needs {size * len(missing) / 1e9:.1f} GB for the maps of {count} faces, "
            f"and {free / 1e9:.1f} GB are free; give --maps a folder on another disk, use fewer "
            "faces (--meta), or a later --from-layer"
        )
    if missing:
        say(
            f"{folder}: {len(missing)} versions of {count} faces through the frozen layers, "
            f"{size * len(missing) / 1e6:.0f} MB"
        )
    if missing or not (folder / "depends.json").exists():
        write_json(folder / "depends.json", dict(depends))
    with tqdm(total=len(missing) * count, unit=" faces", disable=None) as bar:
        for path, (kind, number) in missing.items():
            with replacing(path) as temporary:
                maps = np.lib.format.open_memmap(
                    temporary, mode="w+", dtype=np.float16, shape=(count, *shape)
                )
                cells = []
                for places in _blocks(count):
                    images, seen = _version(alterations, kind, number, places)
                    if seen is not None:
                        cells.append(trainee.cells(torch.from_numpy(seen)).numpy())
                    beside = trainee.beside(_points(alterations, number, places), device)
                    maps[places] = _maps(trainee, images, device, beside)
                    bar.update(len(places))
                maps.flush()
                del maps
                if cells:
                    with replacing(_seen_of(path)) as beside_it, beside_it.open("wb") as file:
                        np.save(file, np.concatenate(cells))
    if not (folder / _TARGETS).exists():
        write_arrays(folder / _TARGETS, _targets(folder, trainee, alterations, kinds, device))


def open_maps(
    folder: Path, kinds: tuple[str, ...], alterations: Alterations, needs_keypoints: bool
) -> KeptMaps:
    """What `keep_maps` left, mapped."""
    found: dict[str, list[NDArray[np.float16]]] = {"clean": [], "cover": [], "surround": []}
    for path, (kind, _) in _files(folder, kinds).items():
        try:
            found[kind].append(np.load(path, mmap_mode="r"))
        except (OSError, ValueError) as error:
            raise TrainError(f"{path}: cannot be read ({error}); {_REMEDY}") from None
    targets = read_arrays(folder / _TARGETS, _REMEDY).arrays
    points = None
    if needs_keypoints:
        every = np.arange(len(found["clean"][0]))
        points = np.stack([_points(alterations, number, every).numpy() for number in (0, 1)])
    return KeptMaps(found["clean"], found["cover"], found["surround"], targets, points)


def _files(folder: Path, kinds: tuple[str, ...]) -> dict[Path, tuple[str, int]]:
    listed = [("clean", 0), ("clean", 1)]
    listed += [(kind, number) for kind in kinds for number in range(DRAWS)]
    return {folder / f"{kind}-{number}.npy": (kind, number) for kind, number in listed}


def _seen_of(path: Path) -> Path:
    """Where the visible cells of a version under covers are."""
    return path.with_suffix(".seen.npy")


def _blocks(count: int) -> list[NDArray[np.int64]]:
    return np.split(np.arange(count), range(TOGETHER, count, TOGETHER))


def _version(
    alterations: Alterations, kind: str, number: int, places: NDArray[np.int64]
) -> tuple[Images, NDArray[np.float32] | None]:
    """Images of a version, mirrored if odd, and the pixels that a cover leaves visible."""
    seen = None
    if kind == "cover":
        images, left = alterations.cover(places, number)
        seen = np.ascontiguousarray(left[:, :, ::-1] if number % 2 else left)
    elif kind == "surround":
        images = alterations.surround(places, number)
    else:
        images = alterations.clean(places)
    if number % 2:
        images = images[:, :, ::-1]
    return np.ascontiguousarray(images), seen


def _points(alterations: Alterations, number: int, places: NDArray[np.int64]) -> Tensor:
    points = keypoints_of(torch.from_numpy(alterations.points(places)))
    return mirrored_points(points) if number % 2 else points


@torch.no_grad()
def _maps(
    trainee: DistilTrainee, images: Images, device: torch.device, beside: Mapping[str, Tensor]
) -> NDArray[np.float16]:
    network = trainee.network
    pixels = network.input_spec.prepare(torch.from_numpy(images).to(device))
    maps = before(network, trainee.last.layer, pixels, **beside)
    return maps.half().cpu().numpy()


@torch.no_grad()
def _targets(
    folder: Path,
    trainee: DistilTrainee,
    alterations: Alterations,
    kinds: tuple[str, ...],
    device: torch.device,
) -> dict[str, NDArray[Any]]:
    """The released network's answers to the unaltered faces, see `KeptMaps.targets`."""

    def batches(number: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        maps = np.load(folder / f"clean-{number}.npy", mmap_mode="r")
        for places in _blocks(len(maps)):
            points = _points(alterations, number, places)
            beside = trainee.beside(points, device)
            yield torch.from_numpy(maps[places]).to(device).float(), beside

    trainee.set_mean(batches(0))
    numbers = range(DRAWS) if "cover" in kinds else ()
    seen = [np.load(_seen_of(folder / f"cover-{number}.npy")) for number in numbers]
    whole: list[list[Tensor]] = [[], []]
    raw: list[list[Tensor]] = [[], []]
    part: list[list[Tensor]] = [[] for _ in numbers]
    for mirrored in (0, 1):
        start = 0
        for maps, beside in batches(mirrored):
            embedding, terms = trainee(maps, **beside)
            raw[mirrored].append(embedding)
            whole[mirrored].append(terms.sum(1))
            for number in numbers[mirrored::2]:
                left = torch.from_numpy(seen[number][start : start + len(maps)]).to(terms)
                part[number].append(torch.einsum("ns,nse->ne", left, terms))
            start += len(maps)
    found = {"whole": whole, "raw": raw, "part": part}
    arrays = {
        name: torch.stack([torch.cat(one) for one in parts]).cpu().numpy()
        for name, parts in found.items()
        if parts
    }
    seen_too = {"seen": np.stack(seen)} if seen else {}
    return {**arrays, **seen_too, "mean": trainee.mean.cpu().numpy()}
