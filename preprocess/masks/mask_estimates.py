"""`prep masks --estimate`: what a trained occlusion head sees, where no mask says it.

Whatever masks or --clean said stays bit for bit. A shard is made of itself: each says of which
masks it is made, so a killed command resumes, and another head starts from the masks again.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from faceguide.cache import manifest
from faceguide.cache.plan import Plan
from faceguide.cache.reader import FaceCache
from faceguide.cache.schema import ESTIMATED, STATUS_CODE
from faceguide.cache.shard import is_done, sidecar_path, write_shard
from faceguide.cache.volume import read_shard
from faceguide.core.commands.doubts import Doubts
from faceguide.core.errors import FaceguideError
from faceguide.core.files import digest, read_json
from faceguide.preprocess.masks.mask_shards import OcclusionSettings
from faceguide.preprocess.parallel import Tick
from faceguide.preprocess.prep_options import Here
from faceguide.preprocess.work import Work
from faceguide.train.models.backbones.backbone import keypoints_of
from faceguide.train.models.loading.network import Network, load_network

_BLOCK = 64  # faces
_CONTRADICTION = 0.5  # mean difference between the cells of a mask and of an estimate
_SUMS = ("estimated", "compared", "contradicted", "squared_error")
_COLUMNS = {ESTIMATED.name: ESTIMATED.described()}


class EstimateError(FaceguideError):
    """A run that cannot estimate the visibility of a cache's faces."""


@dataclass(frozen=True)
class EstimateWork:
    """The estimates of one cache, ready to be made shard by shard."""

    directory: Path
    plan: Plan
    run_directory: Path
    recipe: dict[str, Any]

    def run(self, here: Here) -> MadeEstimates:
        """Make the missing shards of a part."""
        mine = MadeEstimates(self.directory, self.plan, ("occlusion",), here)
        work = functools.partial(
            make_estimates, self.directory, self.plan, self.recipe, self.run_directory
        )
        mine.run(work)
        seen = mine.compared()
        doubts = Doubts()
        doubts.add("contradicted_masks", count=int(seen["contradicted"]))
        doubts.keep(self.directory, "estimates")
        return mine


@dataclass(frozen=True)
class MadeEstimates(Work):
    """The occlusion shards of one part, with how far the estimates are from the masks."""

    def compared(self) -> dict[str, float]:
        """The sums of `make_estimates` over the shards of this part."""
        total: dict[str, float] = dict.fromkeys(_SUMS, 0)
        for shard in self.mine:
            path = sidecar_path(self.directory, "occlusion", shard)
            try:
                found = read_json(path)["estimates"]
                total = {name: total[name] + found[name] for name in _SUMS}
            except (KeyError, TypeError) as error:
                raise manifest.wrong_sidecar(path, error) from None
        return total

    def close(self, started: float) -> dict[str, Any]:
        """The counts of `Work.close`, and the squared error where masks tell it."""
        seen = self.compared()
        faces = int(seen["compared"])
        return {
            **super().close(started),
            "estimated": int(seen["estimated"]),
            "compared_faces": faces,
            "contradicted_masks": int(seen["contradicted"]),
            "squared_error": round(seen["squared_error"] / faces, 4) if faces else None,
        }

    def describe(self, done: dict[str, Any]) -> str:
        """The counts of `close` in words."""
        text = super().describe(done)
        if done["compared_faces"]:
            text += (
                f"\nestimates against {done['compared_faces']:,} known faces: mean squared "
                f"error of a cell {done['squared_error']:.4f}; how good they are on covers of "
                "other kinds is not known"
            )
        else:
            text += "\nno face with a known mask: how good the estimates are is not known"
        return text


def settle_estimate(directory: Path, plan: Plan, run: Path) -> EstimateWork:
    """What all parts share: the recipe of the masks that are there, and the run.

    Raises:
        EstimateError: when the run has no occlusion head, or one that does not fit.
        CacheError: when the masks are not finished.
    """
    found = manifest.group_recipe(directory, plan, "occlusion")
    network = _network(run)
    if found is None:
        masks = OcclusionSettings(None, None, None, (), network.map_side).recipe()
    else:
        masks = _of_masks(found)
    if network.map_side % masks["grid"]:
        raise EstimateError(
            f"{run}: its head sees {network.map_side} cells a side, the masks of {directory} have "
            f"{masks['grid']}; train one with --map {masks['grid']}"
        )
    network.check_size(int(plan.recipe["size"]), str(directory))
    recipe = {
        **masks,
        "columns": _COLUMNS,
        "estimate": {"weights": network.sha256},
    }
    if found is not None and "estimate" not in found:
        # Of a group that is begun and not finished the rest would count as unknown.
        missing = manifest.missing_shards(directory, "occlusion", found, range(plan.shards))
        if missing:
            raise EstimateError(
                f"{directory}: its masks are not finished; rerun the same `prep masks` command "
                "without --estimate first"
            )
    manifest.set_recipe(directory, plan, "occlusion", recipe, replace=True)
    settled = manifest.group_recipe(directory, plan, "occlusion")
    assert settled is not None
    return EstimateWork(directory, plan, run, settled)


def make_estimates(
    directory: Path, plan: Plan, recipe: dict[str, Any], run: Path, shard: int, tick: Tick
) -> None:
    """Make one shard of its own known rows and of estimates, unless it is finished.

    The sidecar holds in `estimates` how many rows are estimated, and of how many known ones the
    estimate was compared: the sum of their mean squared errors, and how many contradict it.
    """
    if is_done(directory, "occlusion", shard, recipe):
        for _ in range(plan.rows_of(shard)):
            tick()
        return
    network = _network(run)
    cache, first = FaceCache.open(directory), shard * plan.shard_rows
    names = ["image"] + ["landmarks"] * network.needs_keypoints
    face_status = cache.read(np.arange(first, first + plan.rows_of(shard)), ["status"])["status"]
    visibility, known, status, before = _masks_of(directory, plan, recipe, shard, face_status)
    sums: dict[str, float] = dict.fromkeys(_SUMS, 0)
    estimated = np.zeros(len(known), bool)
    good = np.flatnonzero(face_status == STATUS_CODE["ok"])
    for start in range(0, len(good), _BLOCK):
        rows = good[start : start + _BLOCK]
        found = cache.read(first + rows, names)
        said = network.describe(
            torch.from_numpy(found["image"]),
            frozenset({"visibility"}),
            keypoints_of(torch.from_numpy(found["landmarks"])) if "landmarks" in found else None,
        )["visibility"]
        maps = _on_grid(said.astype(np.float32), visibility.shape[1])
        told = known[rows]
        off = np.abs(maps[told] - visibility[rows[told]].astype(np.float32))
        sums["compared"] += int(told.sum())
        sums["contradicted"] += int((off.mean((1, 2)) > _CONTRADICTION).sum())
        sums["squared_error"] += float((off**2).mean((1, 2)).sum(dtype=np.float64))
        # A refused mask stays a failure: what it hides is for its owner to repair.
        fresh = rows[~told & (status[rows] == STATUS_CODE["ok"])]
        visibility[fresh] = maps[np.isin(rows, fresh)].astype(np.float16)
        estimated[fresh] = True
        for _ in rows:
            tick()
    for _ in range(len(known) - len(good)):
        tick()
    sums["estimated"] = int(estimated.sum())
    refused = int((status == STATUS_CODE["mask_refused"]).sum())
    counts = {
        "ok": int(known.sum()),
        "estimated": int(estimated.sum()),
        "unknown": int((~known & ~estimated).sum()) - refused,
        "mask_refused": refused,
    }
    report = {
        "failures": before.get("failures", []),
        **({"masks": before["masks"]} if "masks" in before else {}),
        "status": {name: count for name, count in counts.items() if count},
        "estimates": sums,
        "of_masks": digest(_of_masks(recipe)),
        "estimate": recipe["estimate"],
    }
    columns: dict[str, NDArray[Any]] = {
        "visibility": visibility, "known": known | estimated, "status": status,
        ESTIMATED.name: estimated,
    }  # fmt: skip
    with write_shard(
        directory, "occlusion", shard, recipe, rows=len(known), texts={}, report=report
    ) as writer:
        for name, values in columns.items():
            writer.write(name, 0, values)


def _masks_of(
    directory: Path, plan: Plan, recipe: dict[str, Any], shard: int, face_status: NDArray[np.uint8]
) -> tuple[NDArray[np.float16], NDArray[np.bool_], NDArray[np.uint8], dict[str, Any]]:
    """Visibility, which rows masks tell, status and sidecar of a shard; nothing known without one.

    Raises:
        EstimateError: when a shard is there and not one of these masks.
    """
    masks = _of_masks(recipe)
    path = sidecar_path(directory, "occlusion", shard)
    if not path.exists():
        grid = recipe["grid"]
        nothing = np.ones((len(face_status), grid, grid), np.float16)
        return nothing, np.zeros(len(face_status), bool), face_status.copy(), {}
    before = read_json(path)
    if is_done(directory, "occlusion", shard, masks):
        names = "visibility", "known", "status"
        visibility, known, status = read_shard(directory, plan, "occlusion", masks, shard, *names)
        return visibility, known, status, before
    earlier = {**recipe, "estimate": before.get("estimate")}
    if before.get("of_masks") != digest(masks) or not is_done(
        directory, "occlusion", shard, earlier
    ):
        raise EstimateError(
            f"{path}: not a shard of these masks; rerun `prep masks --overwrite` with them, then "
            "--estimate"
        )
    visibility, known, status, estimated = read_shard(
        directory, plan, "occlusion", earlier, shard, "visibility", "known", "status", "estimated"
    )
    visibility[estimated] = 1
    return visibility, known & ~estimated, status, before


def _of_masks(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe of the masks that estimates were added to."""
    return {name: value for name, value in recipe.items() if name not in ("columns", "estimate")}


def _on_grid(maps: NDArray[np.float32], grid: int) -> NDArray[np.float32]:
    """(N, G, G) → (N, grid, grid): means of the cells, grid dividing G."""
    fold = maps.shape[1] // grid
    return maps.reshape(len(maps), grid, fold, grid, fold).mean((2, 4))


@functools.lru_cache(maxsize=1)
def _network(run: Path) -> Network:
    """The run's network, once a process.

    Raises:
        EstimateError: when it has no occlusion head.
    """
    network = load_network(None, run)
    if network.occlusion_head is None:
        raise EstimateError(f"{run}: no occlusion head; `train oaml --train occlusion` trains one")
    return network
