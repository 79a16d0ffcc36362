"""One sealed cache directory: its columns, read by row number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.manifest import finished_shard, load_manifest, require_plan
from faceguide.cache.mapping import SplitColumn
from faceguide.cache.plan import Plan
from faceguide.cache.remote.mirror import group_files
from faceguide.cache.schema import GROUPS, Column, columns, digested, row_digests
from faceguide.cache.shard import is_done, shard_path
from faceguide.cache.shard_files import ShardFiles
from faceguide.cache.volumes.shard_rows import Rows, ShardRows, require_equal
from faceguide.core.errors import CacheError


class Volume(ShardRows):
    """A directory that `prep` filled and sealed; files are opened when first needed.

    Attributes:
        groups: manifest of each group that is sealed.
    """

    def __init__(self, directory: Path) -> None:
        """Open a directory.

        Raises:
            CacheError: when it is no cache, it is not sealed, or its files contradict each other.
        """
        super().__init__()
        self.directory = directory
        self.plan = require_plan(directory)
        self.groups: dict[str, dict[str, Any]] = {}
        self.specs, self.group_of = {}, {}
        every: dict[str, tuple[Column, ...]] = {}
        for group in GROUPS:
            manifest = load_manifest(directory, group, self.plan)
            if manifest is None:
                continue
            self.groups[group] = manifest
            every[group] = columns(group, manifest["recipe"])
            for spec in every[group]:
                if group == "faces" or spec.name not in ("digest", "status"):
                    self.specs[spec.name], self.group_of[spec.name] = spec, group
        if "faces" not in self.groups:
            raise CacheError(
                f"{directory}: not finished; rerun the same prep command, "
                f"or `cache seal {directory}`"
            )
        self.every = every
        self.files = group_files(directory, self.groups)

    def __len__(self) -> int:
        return self.plan.rows

    def locate(self, rows: Rows) -> tuple[Rows, Rows]:
        shards, slots = np.divmod(rows, self.plan.shard_rows)
        return shards, slots


def read_faces(directory: Path, plan: Plan, shard: int, *names: str) -> list[NDArray[Any]]:
    """Columns of a finished shard of faces, as `read_shard` gives them.

    Raises:
        CacheError: when the shard is not there yet, or is not what was written.
    """
    if not is_done(directory, "faces", shard, plan.recipe):
        path = shard_path(directory, "faces", shard)
        raise CacheError(f"{path}: not there yet; run `prep landmarks` to its end first")
    return read_shard(directory, plan, "faces", plan.recipe, shard, *names)


def read_shard(
    directory: Path, plan: Plan, group: str, recipe: dict[str, Any], shard: int, *names: str
) -> list[NDArray[Any]]:
    """Columns of a finished shard, sealed or not; checked as `Volume.take` checks.

    Raises:
        CacheError: when the shard is not what was written.
    """
    specs = {spec.name: spec for spec in columns(group, recipe)}
    entry = finished_shard(directory, plan, group, recipe, shard)
    files = ShardFiles(directory, group, {"recipe": recipe, "shards": {shard: entry}})
    slots = np.arange(plan.rows_of(shard))

    def read(name: str) -> NDArray[Any]:
        out = np.empty((len(slots), *specs[name].shape), specs[name].dtype)
        SplitColumn(files, specs[name]).take(np.full(len(slots), shard), slots, out)
        return out

    found = {name: read(name) for name in names}
    for name in names:
        if specs[name].large:
            stored = read("digest")[:, digested(specs.values()).index((name,))]
            require_equal(files.path(shard), name, slots, row_digests(found[name]), stored)
    return list(found.values())
