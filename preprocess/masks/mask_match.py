"""Which masks belong to which faces of a cache, and which to none; asked before any is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath

import cv2
import numpy as np

from faceguide.cache import manifest
from faceguide.cache.plan import Plan, read_sources
from faceguide.cache.reader import FaceCache
from faceguide.cache.schema import STATUS_CODE
from faceguide.cache.shard import is_done
from faceguide.cache.volume import read_faces
from faceguide.core.errors import CacheError, FaceguideError
from faceguide.core.faces import align
from faceguide.core.faces.decode import decode
from faceguide.preprocess.masks.mask_finder import EXTENSIONS, MaskFinder, mask_stem
from faceguide.preprocess.masks.mask_shards import OcclusionSettings, open_finder
from faceguide.preprocess.masks.mask_values import MaskError

_TRIED = 1000  # faces whose photograph is looked for among the masks
_COMPARED = 3  # of those found
_ALIKE = 4.0  # grey levels between a crop and the same crop from a JPEG


def require_masks(directory: Path, plan: Plan, settings: OcclusionSettings) -> None:
    """Refuse masks of which none belongs to a face, as far as the faces are there.

    Raises:
        MaskError: one line that says what the folder holds instead.
    """
    if settings.root is None:
        return
    finder = open_finder(settings, directory)
    first = ""
    for key in _keys(directory, plan, faces=True):
        first = first or key
        try:
            if finder.find(key) is not None:
                return
        except MaskError as error:
            if error.paths:  # there are masks of this face, though none can be used
                return
    finder = MaskFinder(settings.root, settings.table, settings.source)
    masks = list(finder.walk())
    others = [] if masks else list(finder.others())
    if masks:
        says = f"none of {len(masks):,} masks belongs to a face of the cache ({_shown(masks)})"
    elif others:
        says = f"holds no mask of a kind that is read, only {_shown(others)}; save masks as PNG"
    else:
        says = "holds no masks"
    if first and settings.table:
        says += f"; the images of the cache have names such as {first!r}"
    elif first:
        says += f"; that of {first!r} would be called {PurePath(first).stem}_mask.png"
    raise MaskError(f"{settings.table or settings.root}: {says}")


def name_unused(
    directory: Path, plan: Plan, settings: OcclusionSettings, taken: set[str]
) -> Iterator[str]:
    """Lines about masks of no face, and about files of other kinds that are named as masks.

    Args:
        taken: masks that were found, used or refused.
    """
    assert settings.root is not None
    finder = MaskFinder(settings.root, settings.table, settings.source)
    unused = [path for path in finder.walk() if str(path) not in taken]
    if unused:
        yield f"{len(unused):,} masks belong to no cached face ({_shown(unused)})"
    others = {mask_stem(path): path for path in finder.others()}
    if others:
        matched = {mask_stem(PurePath(path)) for path in taken}
        stems = {PurePath(key).stem for key in _keys(directory, plan, faces=False)}
        unread = [path for stem, path in others.items() if stem in stems - matched]
        if unread:
            yield (
                f"{len(unread):,} files among the masks are of kinds that are not read "
                f"({_shown(unread)}); masks are {', '.join(sorted(EXTENSIONS))}"
            )


def without_photographs(
    directory: Path, plan: Plan, settings: OcclusionSettings
) -> OcclusionSettings:
    """The settings, by which no image is its own mask: the folder of masks may hold the images.

    The cache does not know where its images came from, but has their crops, once it is sealed.
    """
    if settings.root is None or settings.table is not None:
        return settings
    try:
        found = _are_photographs(directory, plan, settings.root)
    except CacheError:  # a shard that cannot be read is named by whoever needs it
        return settings
    return dataclasses.replace(settings, source=settings.root) if found else settings


def _are_photographs(directory: Path, plan: Plan, root: Path) -> bool:
    """Whether files with the images' own names are the images, not masks called alike."""
    if manifest.load_manifest(directory, "faces", plan) is None:
        return False
    cache = FaceCache.open(directory)
    rows = np.arange(min(len(cache), _TRIED))
    rows = rows[cache.read(rows, ["status"])["status"] == STATUS_CODE["ok"]]
    compared = 0
    for row, key in zip(rows.tolist(), cache.texts("key", rows), strict=True):
        path = root / key
        if compared == _COMPARED or not path.is_file():
            continue
        compared += 1
        sample = cache.read([row], ["image", "transform", "source_size"])
        try:
            image = decode(path.read_bytes())
        except (OSError, FaceguideError):
            continue
        if image.shape[1::-1] == tuple(sample["source_size"][0]):
            crop = align.warp(image, sample["transform"][0], plan.recipe["size"])
            greys = [cv2.cvtColor(one, cv2.COLOR_RGB2GRAY) for one in (crop, sample["image"][0])]
            if cv2.absdiff(*greys).mean() < _ALIKE:
                return True
    return False


def _keys(directory: Path, plan: Plan, *, faces: bool) -> Iterator[str]:
    """Keys of the rows; with `faces` without those of which it is known that they have none."""
    for shard in range(plan.shards):
        rows = read_sources(directory, plan, shard)
        status = None
        if faces and is_done(directory, "faces", shard, plan.recipe):
            (status,) = read_faces(directory, plan, shard, "status")
        for slot, row in enumerate(rows):
            if status is None or status[slot] == STATUS_CODE["ok"]:
                yield row.key


def _shown(paths: Iterable[PurePath]) -> str:
    names = [str(path) for path in paths]
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
