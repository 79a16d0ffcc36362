"""ND-TWIN's pairs of identities: {split: [[id, id], …]}, next to the images of each identity."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from faceguide.cache.pairs.list_text import read_text
from faceguide.core.errors import ListError

IMAGES_OF_TWINS = "id_to_images.json"
_MAXIMUM_PAIRS = 50_000_000  # a short file can name very many


def twins(path: Path, text: str, split: str | None) -> Iterator[tuple[str, str, bool]]:
    """All pairs of images of each identity, then all pairs of images across two twins.

    Raises:
        ListError: when the file, or the list of images next to it, is in another form.
    """
    pairs = _json(path, text)
    if _is_images(pairs):
        raise ListError(
            f"{path}: says which images an identity has, not which identities are pairs; give "
            f"{_pairs_beside(path)}"
        )
    images = _json(path.with_name(IMAGES_OF_TWINS))
    if not isinstance(pairs, dict) or not isinstance(images, dict):
        raise ListError(f"{path}: expected {{split: [[id, id], …]}} and {{id: [paths]}} next to it")
    if split not in pairs:
        raise ListError(
            f"{path}: choose its split, with --split, --pairs-split or --contrastive-split, from "
            f"{', '.join(map(str, pairs))}"
        )
    listed = pairs[split]
    if not (isinstance(listed, list) and all(map(_is_pair, listed))):
        raise ListError(f"{path}: expected a list of [id, id] under {split!r}")
    identities = list(dict.fromkeys(str(identity) for pair in listed for identity in pair))
    couples = list(dict.fromkeys(tuple(sorted(map(str, pair))) for pair in listed))
    size = {identity: len(_images_of(path, images, identity)) for identity in identities}
    count = sum(n * (n - 1) // 2 for n in size.values())
    count += sum(size[one] * size[other] for one, other in couples)
    if count > _MAXIMUM_PAIRS:
        raise ListError(f"{path}: {count} pairs of images, at most {_MAXIMUM_PAIRS} are read")
    for identity in identities:
        for a, b in itertools.combinations(_images_of(path, images, identity), 2):
            yield a, b, True
    for one, other in couples:
        if one == other:
            raise ListError(f"{path}: {one!r} is listed as its own twin")
        for a in _images_of(path, images, one):
            for b in _images_of(path, images, other):
                yield a, b, False


def _is_images(found: Any) -> bool:
    """{identity: [path, …]}, what `IMAGES_OF_TWINS` holds."""
    lists = list(found.values()) if isinstance(found, dict) else []
    return bool(lists) and all(
        isinstance(paths, list) and paths and all(isinstance(name, str) for name in paths)
        for paths in lists
    )


def _pairs_beside(path: Path) -> str:
    """The files in the same folder that list pairs of identities."""
    names = []
    for file in sorted(path.parent.glob("*.json")):
        try:
            found = _json(file)
        except ListError:
            continue
        lists = list(found.values()) if isinstance(found, dict) else []
        if lists and all(isinstance(part, list) and all(map(_is_pair, part)) for part in lists):
            names.append(file.name)
    return " or ".join(names) or "the file of pairs, {split: [[id, id], …]}"


def _is_pair(entry: Any) -> bool:
    is_two = isinstance(entry, list) and len(entry) == 2
    return is_two and all(isinstance(identity, str | int) for identity in entry)


def _images_of(path: Path, images: dict[str, Any], identity: str) -> list[str]:
    paths = images.get(identity)
    if not isinstance(paths, list) or not all(isinstance(name, str) for name in paths):
        raise ListError(
            f"{path.with_name(IMAGES_OF_TWINS)}: expected a list of paths for {identity!r}"
        )
    return paths


def _json(path: Path, text: str | None = None) -> Any:
    try:
        return json.loads(read_text(path) if text is None else text)
    except (ValueError, RecursionError) as error:
        raise ListError(f"{path}: not JSON: {error}") from None
