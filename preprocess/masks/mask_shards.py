"""The work of `prep masks`: one shard of visibility maps, through the faces' own transforms."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.pairs.name_rows import match_names
from faceguide.cache.plan import Plan, read_sources
from faceguide.cache.reader import FaceCache
from faceguide.cache.schema import STATUS_CODE
from faceguide.cache.shard import is_done, write_shard
from faceguide.cache.volume import read_faces
from faceguide.core.errors import CacheError
from faceguide.core.faces import align
from faceguide.core.files import json_bytes, publish, read_json
from faceguide.preprocess.guidance.point_table import load_points
from faceguide.preprocess.masks.mask_files import MaskSettings, read_mask
from faceguide.preprocess.masks.mask_finder import MaskFinder
from faceguide.preprocess.masks.mask_values import MaskError
from faceguide.preprocess.masks.visibility import cell_visibility, eyes_visible
from faceguide.preprocess.parallel import Tick, run

REVISION = 1
_MANY_ROWS = 1 << 20  # from which processes count faster than they start


@dataclass(frozen=True)
class OcclusionSettings:
    """Where the masks are and what they mean.

    Attributes:
        root: folder of masks; None when there are none, only clean faces.
        table: CSV that says which mask belongs to which image.
        masks: polarity and classes; None without masks.
        clean: folders below the source root ("." for all of it) whose faces are unoccluded.
        source: folder of the images, where that is known.
    """

    root: Path | None
    table: Path | None
    masks: MaskSettings | None
    clean: tuple[str, ...]
    grid: int
    source: Path | None = None

    def recipe(self) -> dict[str, Any]:
        """Whatever changes a byte of the result."""
        return {
            "revision": REVISION,
            "grid": self.grid,
            "masks": self.root.resolve().name if self.root else None,
            "table": self.table.name if self.table else None,
            "polarity": self.masks.polarity if self.masks else None,
            "classes": [list(c) if isinstance(c, tuple) else c for c in self.masks.classes]
            if self.masks
            else [],
            "clean": list(self.clean),
        }


@dataclass
class Seen:
    """What the masks of a shard show, as its sidecar keeps it.

    Attributes:
        faces: faces with a mask.
        visible: their visible shares, added up.
        eyes_hidden: faces with less than half of their eyes visible.
    """

    faces: int = 0
    visible: float = 0.0
    eyes_hidden: int = 0

    def add(self, other: Seen) -> None:
        self.faces += other.faces
        self.visible += other.visible
        self.eyes_hidden += other.eyes_hidden


def open_finder(settings: OcclusionSettings, directory: Path) -> MaskFinder:
    """The finder of a process; a table's names of images are those of the cache's rows.

    Raises:
        MaskError: when the folder or the table cannot be used, or a row has two masks.
        CacheError: when there is a table and the faces are not finished.
    """
    stamp = settings.table.stat().st_mtime_ns if settings.table else 0
    return _opened_finder(settings, directory, stamp)


@functools.lru_cache(maxsize=1)
def _opened_finder(settings: OcclusionSettings, directory: Path, _: int) -> MaskFinder:
    assert settings.root is not None
    finder = MaskFinder(settings.root, settings.table, settings.source)
    if finder.table is None:
        return finder
    cache = FaceCache.open(directory)
    matches = match_names(cache, finder.table)
    rows = {name: row for name, row in matches.rows.items() if type(row) is int}
    finder.loose = matches.doubtful
    resolved: dict[str, str] = {}
    for (name, mask), key in zip(
        ((name, finder.table[name]) for name in rows), cache.texts("key", list(rows.values())),
        strict=True,
    ):  # fmt: skip
        if resolved.setdefault(key, mask) != mask:
            raise MaskError(
                f"{settings.table}: {name!r} is the image {key!r}, which has another mask already"
            )
    finder.table = resolved
    return finder


def make_occlusion(
    directory: Path,
    plan: Plan,
    recipe: dict[str, Any],
    settings: OcclusionSettings,
    shared_stems: frozenset[int],
    shard: int,
    tick: Tick,
) -> list[str]:
    """Make one shard of visibility maps unless it is finished under this recipe.

    Args:
        shared_stems: hashes of stems that several images have, from `find_shared_stems`.

    Returns:
        The masks that were found, used or refused (none for a shard that was finished before).
    """
    rows = read_sources(directory, plan, shard)
    if is_done(directory, "occlusion", shard, recipe):
        for _ in rows:
            tick()
        return []
    face_status, transforms, sizes, landmarks = read_faces(
        directory, plan, shard, "status", "transform", "source_size", "landmarks"
    )
    size, eyes = int(plan.recipe["size"]), load_points()
    # Unknown cells say visible: a matcher that ignores `known` then ignores no part of the face.
    visibility = np.ones((len(rows), settings.grid, settings.grid), np.float16)
    known = np.zeros(len(rows), bool)
    status = face_status.copy()
    failures: list[dict[str, Any]] = []
    found: list[str] = []
    seen = Seen()
    clean = tuple(f"{folder.rstrip('/')}/" for folder in settings.clean)
    finder = open_finder(settings, directory) if settings.root else None
    for slot, row in enumerate(rows):
        if face_status[slot] == STATUS_CODE["ok"]:
            try:
                path = _mask_of(row.key, finder, shared_stems)
                if path is not None:
                    assert settings.masks is not None
                    found.append(str(path))
                    mask = read_mask(path, settings.masks)
                    photograph = (int(sizes[slot, 0]), int(sizes[slot, 1]))
                    visibility[slot] = cell_visibility(
                        mask, photograph, transforms[slot], size, settings.grid
                    )
                    known[slot] = True
                    points = align.apply(align.invert(transforms[slot]), landmarks[slot] * size)
                    seen.faces += 1
                    seen.visible += float(visibility[slot].mean(dtype=np.float64))
                    seen.eyes_hidden += eyes_visible(mask, photograph, points, eyes) < 0.5
                elif "." in settings.clean or row.key.startswith(clean):
                    known[slot] = True
            except MaskError as error:
                found.extend(error.paths)
                status[slot] = STATUS_CODE["mask_refused"]
                failures.append(
                    {"row": slot, "key": row.key, "status": "mask_refused", "reason": str(error)}
                )
        tick()
    report = {"status": _counts(status, known), "failures": failures, "masks": asdict(seen)}
    with write_shard(
        directory, "occlusion", shard, recipe, rows=len(rows), texts={}, report=report
    ) as writer:
        columns: dict[str, NDArray[Any]] = {
            "visibility": visibility, "known": known, "status": status,
        }  # fmt: skip
        for name, values in columns.items():
            writer.write(name, 0, values)
    return found


def find_shared_stems(directory: Path, plan: Plan, jobs: int) -> frozenset[int]:
    """Hashes of the stems, with and without folders, that more than one image has.

    A mask found by such a stem could belong to either image. The first part to ask counts (16
    bytes per row), the others read what it found.

    Args:
        jobs: processes that count, where there are many rows.
    """
    path = directory / "shared-stems.json"
    if not path.exists():
        jobs = jobs if plan.rows >= _MANY_ROWS else 1
        found = {"listing": plan.listing, "hashes": _count_stems(directory, plan, jobs)}
        publish(path, json_bytes(found))
    record = read_json(path)
    if record.get("listing") != plan.listing:
        raise CacheError(f"{path}: of another plan; remove it and rerun the same command")
    return frozenset(record["hashes"])


def _count_stems(directory: Path, plan: Plan, jobs: int) -> list[int]:
    hashes = np.empty(2 * plan.rows, np.uint64)
    position = 0
    work, shards = functools.partial(_stems_of, directory, plan), range(plan.shards)
    for found in run(work, shards, jobs=jobs, total=plan.shards, unit=" lists"):
        hashes[position : position + len(found)] = found
        position += len(found)
    hashes.sort()  # in place: there may be gigabytes of them
    again = hashes[1:] == hashes[:-1]
    return [int(value) for value in np.unique(hashes[1:][again])]


def _stems_of(directory: Path, plan: Plan, shard: int, tick: Tick) -> NDArray[np.uint64]:
    """Both hashes of every row of a shard."""
    rows = read_sources(directory, plan, shard)
    found = np.array([_stem_hashes(row.key) for row in rows], np.uint64).ravel()
    tick()
    return found


def _mask_of(key: str, finder: MaskFinder | None, shared_stems: frozenset[int]) -> Path | None:
    path = finder.find(key) if finder else None
    if finder is None or path is None or finder.table is not None:
        return path
    with_folder, alone = _stem_hashes(key)
    flat = path.parent == finder.root
    if (alone if flat else with_folder) in shared_stems:
        raise MaskError(
            f"{path}: several images are called {PurePosixPath(key).stem!r}; "
            "keep the images' folders under the masks', or name the pairs with --table",
            str(path),
        )
    return path


def _stem_hashes(key: str) -> tuple[int, int]:
    """Of the path without its suffix, and of its last part."""
    if "//" in key or "./" in key:
        key = str(PurePosixPath(key))
    folder, slash, name = key.rpartition("/")
    stem, _, suffix = name.rpartition(".")
    stem = stem if stem and suffix else name
    # Marked, so that an image in the root does not share its own two hashes.
    return _hash(f"/{folder}{slash}{stem}"), _hash(stem)


def _hash(text: str) -> int:
    data = text.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _counts(status: NDArray[np.uint8], known: NDArray[np.bool_]) -> dict[str, int]:
    """ok counts rows whose visibility is known; faces without a mask are no failure."""
    refused = int((status == STATUS_CODE["mask_refused"]).sum())
    counts = {
        "ok": int(known.sum()),
        "unknown": int(len(status) - known.sum()) - refused,
        "mask_refused": refused,
    }
    return {name: count for name, count in counts.items() if count}
