"""ND-TWIN's two files: {id: [paths]} and, next to it, {split: [[id, id], …]}."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from faceguide.cache.pairs.list_text import read_text
from faceguide.core.commands.doubts import Doubts
from faceguide.core.errors import ListError

IMAGES_OF_TWINS, PAIRS_OF_TWINS = "id_to_images.json", "twin_pairs_infor.json"
TRAIN, VALIDATION = "train", "val"
Impostors = Literal["all", "twins", "others"]
_MAXIMUM_PAIRS = 50_000_000  # a short file can name very many
_MAXIMUM_OTHERS = 1_000_000  # pairs of two identities that are no twins; more are sampled


@dataclass(frozen=True)
class Twins:
    """Who is whose twin, and who is learnt, chosen by and tested on.

    Attributes:
        images: identity → its paths; identities without images are left out.
        splits: split → pairs of identities, each pair once; those that cannot be used are left out.
        shared: identities that stand in several splits.
        doubts: what is left out, or looks wrong.
    """

    images: dict[str, list[str]]
    splits: dict[str, list[tuple[str, str]]]
    shared: set[str]
    doubts: Doubts = field(default_factory=Doubts)

    def identities(self, split: str) -> list[str]:
        """Those of a split, in the order of the file."""
        return list(dict.fromkeys(itertools.chain.from_iterable(self.splits.get(split, ()))))

    def groups(self) -> dict[str, str]:
        """Identity → name of its group of twins, whose names joined by "+" it is."""
        group: dict[str, set[str]] = {}
        for one, other in itertools.chain.from_iterable(self.splits.values()):
            both = group.get(one, {one}) | group.get(other, {other})
            group.update(dict.fromkeys(both, both))
        return {identity: "+".join(sorted(members)) for identity, members in group.items()}

    def split_of(self) -> dict[str, str]:
        """Identity → its split; one that stands in several has none."""
        found = {name: split for split in self.splits for name in self.identities(split)}
        return {name: split for name, split in found.items() if name not in self.shared}


def read_twins(path: Path, text: str | None = None) -> Twins:
    """Read a file of pairs and the list of images next to it.

    Args:
        text: of the file, if it was read.

    Raises:
        ListError: when the file, or the list of images next to it, is in another form.
    """
    pairs = _json(path, text)
    if is_images(pairs):
        raise ListError(
            f"{path}: says which images an identity has, not which identities are pairs; give "
            f"{_named(pairs_beside(path))}"
        )
    beside = path.with_name(IMAGES_OF_TWINS)
    return _twins(pairs, _json(beside), f"{path}: expected {{split: [[id, id], …]}}", str(beside))


def read_images_of_twins(path: Path) -> Twins:
    """Read a list of images, and the pairs of the same folder if there is one file of them.

    Raises:
        ListError: when the file is in another form.
    """
    images = _json(path)
    if is_pairs(images):
        beside = path.with_name(IMAGES_OF_TWINS)
        raise ListError(
            f"{path}: says which identities are pairs, not which images they have; give "
            f"{beside if beside.exists() else 'the list of images, {id: [paths]}'}"
        )
    found = pairs_beside(path)
    pairs = _json(found[0]) if len(found) == 1 else {}
    return _twins(pairs, images, "", str(path))


def twins_of_folder(folder: Path) -> Twins | None:
    """The pairs of a folder of identities, in it or beside it; None where there are none.

    Raises:
        ListError: when the file is in another form.
    """
    for path in (folder / PAIRS_OF_TWINS, folder.parent / PAIRS_OF_TWINS):
        if path.is_file():
            pairs = _json(path)
            if not is_pairs(pairs):
                raise ListError(f"{path}: expected {{split: [[id, id], …]}}; mend or move it")
            names = {str(name): [""] for part in pairs.values() for pair in part for name in pair}
            return _twins(pairs, names, f"{path}: expected {{split: [[id, id], …]}}", "")
    return None


def _twins(pairs: Any, images: Any, fault: str, images_path: str) -> Twins:
    if not isinstance(pairs, dict):
        raise ListError(f"{fault} and {{id: [paths]}} next to it")
    if not isinstance(images, dict):
        raise ListError(f"{images_path}: expected {{id: [paths]}}")
    doubts, listed = Doubts(), {}
    for identity, paths in images.items():
        if isinstance(paths, list) and paths and all(isinstance(name, str) for name in paths):
            listed[identity] = paths
        else:
            doubts.add("identities_without_images", repr(identity))
    splits: dict[str, list[tuple[str, str]]] = {}
    for split, entries in pairs.items():
        if not (isinstance(entries, list) and all(map(_is_pair, entries))):
            raise ListError(f"{fault}, not a list of [id, id] under {split!r}")
        couples = dict.fromkeys(tuple(sorted(map(str, entry))) for entry in entries)
        splits[split] = []
        for one, other in couples:
            if one != other and one in listed and other in listed:
                splits[split].append((one, other))
            else:
                doubts.add("twins_without_images", f"{one}, {other}")
    found = Twins(listed, splits, set(), doubts)
    among = Counter(name for split in splits for name in found.identities(split))
    shared = sorted(name for name, count in among.items() if count > 1)
    found.shared.update(shared)
    doubts.add("shared_splits", shared[0] if shared else "", len(shared))
    large = sorted({group for group in found.groups().values() if group.count("+") > 1})
    doubts.add("twin_groups", large[0] if large else "", len(large))
    return found


@dataclass(frozen=True)
class TwinPairs:
    """Pairs of images of one split.

    Attributes:
        rows: probe, reference, whether they are of one identity, whether of two twins.
    """

    rows: list[tuple[str, str, bool, bool]]
    doubts: Doubts


def twin_pairs(path: Path, text: str, split: str | None, impostors: Impostors) -> TwinPairs:
    """Pairs of images of each identity, then across two twins, then of other two identities.

    Args:
        impostors: which pairs of two identities; of others than twins at most a million, sampled.

    Raises:
        ListError: as `read_twins`, or when there is no such split.
    """
    twins = read_twins(path, text)
    if split not in twins.splits:
        raise ListError(
            f"{path}: choose its split, with --pairs-split, --fit-split or --contrastive-split, "
            f"from {', '.join(map(str, twins.splits))}"
        )
    identities, couples = twins.identities(split), twins.splits[split]
    size = {identity: len(twins.images[identity]) for identity in identities}
    count = sum(n * (n - 1) // 2 for n in size.values())
    count += sum(size[one] * size[other] for one, other in couples)
    if count > _MAXIMUM_PAIRS:
        raise ListError(f"{path}: {count} pairs of images, at most {_MAXIMUM_PAIRS} are read")
    rows = [
        (a, b, True, False)
        for identity in identities
        for a, b in itertools.combinations(twins.images[identity], 2)
    ]
    if impostors != "others":
        rows += [
            (a, b, False, True)
            for one, other in couples
            for a, b in itertools.product(twins.images[one], twins.images[other])
        ]
    if impostors != "twins":
        rows += [(a, b, False, False) for a, b in _others(twins, identities)]
    return TwinPairs(rows, twins.doubts)


def _others(twins: Twins, identities: list[str]) -> Iterator[tuple[str, str]]:
    """Pairs of images of two identities that are no twins, in the order of the file."""
    group = twins.groups()
    owner = [place for place, name in enumerate(identities) for _ in twins.images[name]]
    images = [image for name in identities for image in twins.images[name]]
    owners = np.array(owner, np.int64)
    _, groups = np.unique([group[name] for name in identities], return_inverse=True)
    kin = groups[owners]
    # The images are sorted by identity, not by group, so what is behind one image is counted.
    total = len(images)
    allowed = (total * (total - 1) - sum(n * (n - 1) for n in Counter(kin.tolist()).values())) // 2
    if allowed <= _MAXIMUM_OTHERS:
        for place in range(total):
            for other in (np.flatnonzero(kin[place + 1 :] != kin[place]) + place + 1).tolist():
                yield images[place], images[other]
        return
    random, chosen = np.random.default_rng(0), set[tuple[int, int]]()
    while len(chosen) < _MAXIMUM_OTHERS:
        a, b = np.sort(random.integers(0, total, (2, _MAXIMUM_OTHERS)), axis=0)
        apart = kin[a] != kin[b]
        for pair in zip(a[apart].tolist(), b[apart].tolist(), strict=True):
            chosen.add(pair)
            if len(chosen) == _MAXIMUM_OTHERS:
                break
    for one, two in sorted(chosen):
        yield images[one], images[two]


def is_images(found: Any) -> bool:
    """{identity: [path, …]}, what `IMAGES_OF_TWINS` holds."""
    lists = list(found.values()) if isinstance(found, dict) else []
    return any(lists) and all(
        isinstance(paths, list) and all(isinstance(name, str) for name in paths) for paths in lists
    )


def is_pairs(found: Any) -> bool:
    """{split: [[id, id], …]}."""
    lists = list(found.values()) if isinstance(found, dict) else []
    return bool(lists) and all(
        isinstance(part, list) and all(map(_is_pair, part)) for part in lists
    )


def is_twin_list(path: Path | None) -> bool:
    """Whether a list of pairs is one of ND-TWIN, with splits."""
    if path is None or path.suffix.lower() != ".json":
        return False
    try:
        return is_pairs(_json(path))
    except ListError:
        return False


def pairs_beside(path: Path) -> list[Path]:
    """The files in the same folder that list pairs of identities."""
    return [file for file in sorted(path.parent.glob("*.json")) if is_twin_list(file)]


def _named(files: list[Path]) -> str:
    names = " or ".join(file.name for file in files)
    return names or "the file of pairs, {split: [[id, id], …]}"


def _is_pair(entry: Any) -> bool:
    is_two = isinstance(entry, list) and len(entry) == 2
    return is_two and all(isinstance(identity, str | int) for identity in entry)


def _json(path: Path, text: str | None = None) -> Any:
    try:
        return json.loads(read_text(path) if text is None else text)
    except (ValueError, RecursionError) as error:
        raise ListError(f"{path}: not JSON: {error}") from None
