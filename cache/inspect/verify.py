"""Every checksum and every invariant of a cache, shard by shard."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import h5py
import joblib
import numpy as np
from numpy.typing import NDArray

from faceguide.cache.manifest import (
    group_recipe,
    load_manifest,
    manifest_path,
    recipe_path,
    require_files,
    require_plan,
)
from faceguide.cache.mapping import BytesColumn, SplitColumn
from faceguide.cache.plan import (
    IDENTITIES,
    LISTING,
    SOURCES,
    Plan,
    listing_digest,
    read_identities,
    read_sources,
)
from faceguide.cache.schema import (
    GROUPS,
    OF_DETECTION,
    ORIGINS,
    SCHEMA,
    STATUS_CODE,
    STATUSES,
    Column,
    columns,
    digested,
    piece_digests,
    row_digests,
)
from faceguide.cache.shard import shard_path, sidecar_path
from faceguide.cache.shard_files import ShardFiles
from faceguide.core.errors import CacheError
from faceguide.core.files import digest, file_sha256, read_json, stray_files
from faceguide.core.formats.hdf5 import open_dataset

_OK = STATUS_CODE["ok"]
_AGAIN = "remove it and rerun the same prep command"


def verify(
    directory: Path, *, jobs: int = 1, progress: Callable[[int], None] = lambda shards: None
) -> tuple[list[str], list[str]]:
    """Check a cache from its plan down to every row.

    Args:
        jobs: threads; hashing releases the interpreter.
        progress: called with the number of shards checked since the last call.

    Returns:
        Problems (one line each: what is wrong and what to do), and notes on what is harmless.

    Raises:
        CacheError: when there is no readable plan to check against.
    """
    plan = require_plan(directory)
    require_files(directory)
    problems = list(_lists(directory, plan))
    notes = [f"{path}: left by a writer that was killed" for path in stray_files(directory)]
    if notes:
        notes.append(f"`cache seal --clean {directory}` removes these, when nothing writes there")
    for group in GROUPS:
        recipe = group_recipe(directory, plan, group)
        if recipe is None:
            stray = list(directory.glob(f"{group}-[0-9]*.h5"))
            if stray or manifest_path(directory, group).exists():
                problems.append(
                    f"{recipe_path(directory, group)}: missing, but {group} files are there; "
                    "restore it or re-render the group"
                )
            continue
        try:
            manifest = load_manifest(directory, group, plan)
        except CacheError as error:
            problems.append(str(error))
            continue
        if manifest is None:
            problems.append(
                f"{manifest_path(directory, group)}: missing; rerun the same prep command, "
                f"or `cache seal {directory}`"
            )
            continue
        if manifest["recipe"] != recipe:
            problems.append(
                f"{manifest_path(directory, group)}: its recipe is not the group's; "
                f"run `cache seal {directory}`"
            )
            continue
        checked = _Group(directory, plan, group, manifest)
        parallel = joblib.Parallel(n_jobs=jobs, prefer="threads", return_as="generator")
        for found in parallel(joblib.delayed(checked.shard)(n) for n in range(plan.shards)):
            problems += found
            progress(1)
    return problems, notes


def _lists(directory: Path, plan: Plan) -> Iterator[str]:
    """The sources and identities are what the plan was made of."""
    try:
        names, listing = read_identities(directory), listing_digest(directory, plan.shards)
    except (CacheError, OSError) as error:
        yield f"{error}; restore it from a copy, or start over with --overwrite"
        return
    if listing != plan.listing or len(names) != plan.identities:
        yield (
            f"{directory / SOURCES}, {directory / IDENTITIES}: not what the plan was made of; "
            "restore them from a copy, or start over with --overwrite"
        )
    marker = directory / SOURCES / LISTING
    try:
        if marker.read_text() != plan.listing:
            yield f"{marker}: not what plan.json says; write {plan.listing} into it"
    except (OSError, UnicodeDecodeError) as error:
        yield f"{marker}: not readable ({error}); write {plan.listing} into it"


@dataclass(frozen=True)
class _Group:
    """A group whose manifest is sound, as far as it shows without its shards."""

    directory: Path
    plan: Plan
    name: str
    manifest: dict[str, Any]

    @functools.cached_property
    def files(self) -> ShardFiles:
        return ShardFiles(self.directory, self.name, self.manifest)

    def shard(self, shard: int) -> list[str]:
        """What is wrong with a shard and its sidecar."""
        path = shard_path(self.directory, self.name, shard)
        entry = self.manifest["shards"][shard]
        problems = list(self._sidecar(shard))
        try:
            if path.stat().st_size != entry["bytes"] or file_sha256(path) != entry["sha256"]:
                return [*problems, f"{path}: its bytes are not those that were written; {_AGAIN}"]
            problems += [f"{path}: {fault}; {_AGAIN}" for fault in self._content(shard)]
        except (CacheError, OSError, KeyError, ValueError, RuntimeError, MemoryError) as error:
            problems.append(f"{path}: not readable ({error}); {_AGAIN}")
        return problems

    def _sidecar(self, shard: int) -> Iterator[str]:
        path = sidecar_path(self.directory, self.name, shard)
        wanted = {
            **self.manifest["shards"][shard], "recipe": digest(self.manifest["recipe"]),
            "schema": SCHEMA, "group": self.name, "shard": shard,
        }  # fmt: skip
        try:
            sidecar = read_json(path)
        except CacheError as error:
            yield f"{path}: damaged ({error}); {_AGAIN}"
            return
        if any(sidecar.get(name) != value for name, value in wanted.items()):
            yield f"{path}: does not say what the manifest says; {_AGAIN}"

    def _content(self, shard: int) -> Iterator[str]:
        """What is wrong with the rows of a shard."""
        rows, specs = self.plan.rows_of(shard), columns(self.name, self.manifest["recipe"])
        files = self.files
        yield from _datasets(files.path(shard), files.entries[shard], specs, rows)
        values: dict[str, NDArray[Any]] = {}
        pieces: dict[str, list[memoryview]] = {}
        for spec in specs:
            if spec.encoded:
                pieces[spec.name] = list(BytesColumn(files, spec.name).all(shard))
                continue
            values[spec.name] = np.empty((rows, *spec.shape), spec.dtype)
            SplitColumn(files, spec).take(np.full(rows, shard), np.arange(rows), values[spec.name])
        for place, names in enumerate(digested(specs)):
            if names[0] in pieces:
                found = piece_digests(pieces[names[0]])
            else:
                found = row_digests(*(values[name] for name in names))
            wrong = np.flatnonzero(found != values["digest"][:, place])
            if wrong.size:
                yield (
                    f"{', '.join(names)} of row {wrong[0]} and {wrong.size - 1} others differ from "
                    "their digests"
                )
        if self.name == "faces":
            yield from self._texts(shard)
            for spec in specs:
                if spec.encoded:
                    yield from _pictures(spec, pieces[spec.name], values["status"])
        yield from _INVARIANTS[self.name](values, self.plan)

    def _texts(self, shard: int) -> Iterator[str]:
        """Keys and meta columns are those of the plan."""
        sources = read_sources(self.directory, self.plan, shard)
        for name, wanted in {
            "key": [row.key for row in sources],
            **{f"meta/{n}": [row.meta[i] for row in sources] for i, n in enumerate(self.plan.meta)},
        }.items():
            texts = [
                os.fsdecode(bytes(piece)) for piece in BytesColumn(self.files, name).all(shard)
            ]
            if texts != wanted:
                yield f"its {name} is not that of the plan"


def _datasets(
    path: Path, entry: dict[str, Any], specs: Sequence[Column], rows: int
) -> Iterator[str]:
    """Whether HDF5 finds each column where the manifest says it lies."""
    with h5py.File(path, "r") as file:
        for spec in specs:
            if spec.encoded:
                continue
            try:
                dataset = open_dataset(file, spec.name, (rows, *spec.shape), spec.dtype)
            except ValueError as error:
                yield str(error)
                continue
            if dataset.id.get_offset() != entry["offsets"][spec.name]:
                yield f"{spec.name} does not start where the manifest says"


def _pictures(
    spec: Column, pieces: Sequence[memoryview], status: NDArray[np.uint8]
) -> Iterator[str]:
    for row in np.flatnonzero(status == _OK).tolist():
        data = np.frombuffer(pieces[row], np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
        if image is None or image.shape != spec.shape:
            yield f"{spec.name} of row {row} does not decode"


def _faces(values: dict[str, NDArray[Any]], plan: Plan) -> Iterator[str]:
    good = values["status"] == _OK
    if (values["status"] >= len(STATUSES)).any() or (values["origin"] >= len(ORIGINS)).any():
        yield "a status or an origin has no name"
    if ((values["label"] < -1) | (values["label"] >= max(plan.identities, 0))).any():
        yield "a label names no identity"
    if not np.isfinite(values["landmarks"][good][:, :, :2]).all():
        yield "a good row has landmarks that are not finite"
    if not np.isfinite(values["transform"][good]).all():
        yield "a good row has a transform that is not finite"
    if (values["origin"][good] == 0).any() or (values["origin"][~good] != 0).any():
        yield "origin and status contradict each other"
    for name in (column.name for column in OF_DETECTION if column.name in values):
        if ((values[name] < 0) | (values[name] > 1)).any():
            yield f"a {name} is outside 0 … 1"


def _guidance(values: dict[str, NDArray[Any]], plan: Plan) -> Iterator[str]:
    peaks = values["heatmap"].max((1, 2))
    if not np.isin(peaks, (0, 255)).all():
        yield "a heatmap has a maximum that is neither 0 nor 255"


def _occlusion(values: dict[str, NDArray[Any]], plan: Plan) -> Iterator[str]:
    visibility = values["visibility"]
    if not ((visibility >= 0) & (visibility <= 1)).all():
        yield "a visibility is outside 0 … 1"
    if (visibility[~values["known"]] != 1).any():
        yield "an unknown visibility is not 1"


_INVARIANTS = {"faces": _faces, "guidance": _guidance, "occlusion": _occlusion}
