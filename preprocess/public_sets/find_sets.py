"""Which benchmarks lie in a folder, and what only looks like one."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from faceguide.core.errors import FaceguideError
from faceguide.core.files import remedy
from faceguide.preprocess.public_sets.benchmarks import BENCHMARKS
from faceguide.preprocess.public_sets.found_set import FoundSet
from faceguide.preprocess.public_sets.layouts import (
    arrow_folders,
    bin_files,
    lfw_family,
    occluded_lists,
)
from faceguide.preprocess.public_sets.layouts.cfp_folders import find_cfp, find_twins
from faceguide.preprocess.public_sets.layouts.gallery_folders import (
    find_rmfrd,
    find_scface,
    find_tinyface,
)
from faceguide.preprocess.public_sets.layouts.group_sets import find_bfw, find_rfw

_DEPTH = 2  # of folders below the one that is searched
_MANY = 200  # folders in one folder: identities, not sets


@dataclass(frozen=True)
class Doubtful:
    """A folder that is called like a benchmark, or begins as one does, and cannot be run.

    Attributes:
        benchmark: which one by its name; "" = unknown.
    """

    benchmark: str
    place: Path
    reason: str

    def __str__(self) -> str:
        text = self.reason if str(self.place) in self.reason else f"{self.place}: {self.reason}"
        if self.benchmark:
            known = BENCHMARKS[self.benchmark]
            text += f"; {known.title} is " + (
                f"expected as {known.tree}" if known.supported else "not supported yet"
            )
        return text


@dataclass
class Inventory:
    """What lies in a folder: sets that can be run, and others."""

    found: list[FoundSet] = field(default_factory=list)
    doubtful: list[Doubtful] = field(default_factory=list)


def _ijb(folder: Path) -> list[FoundSet]:
    if not ((folder / "loose_crop").is_dir() and (folder / "meta").is_dir()):
        return []
    name = "ijb-b" if any((folder / "meta").glob("ijbb_*")) else "ijb-c"
    return [FoundSet(name, folder, "ijb")]


# The first that finds something has the folder; all but the last have what is below it too.
_LAYOUTS: tuple[Callable[[Path], list[FoundSet]], ...] = (
    arrow_folders.find,
    find_rfw,
    occluded_lists.find,
    find_tinyface,
    find_scface,
    find_cfp,
    find_bfw,
    find_rmfrd,
    _ijb,
    find_twins,
    lfw_family.find,
)


def find_sets(root: Path) -> Inventory:
    """The sets in `root` and in up to two folders below it, in the order of their places.

    A set's own folders are not searched for others.
    """
    inventory = Inventory()
    _visit(root, 0, inventory)
    places = [one.place for one in inventory.found]
    places += [one.place for one in inventory.doubtful]
    for folder in (root, *_below(root)):
        named = _named(folder.name)
        inside = any(place == folder or folder in place.parents for place in places)
        if named and not inside:
            reason = "called like a benchmark, in another layout"
            inventory.doubtful.append(Doubtful(named, folder, reason))
    return inventory


def _visit(folder: Path, depth: int, inventory: Inventory) -> None:
    mine: list[FoundSet] = []
    whole = False  # whether all that the folder holds belongs to one set
    for layout in _LAYOUTS:
        mine += (sets := _tried(layout, folder, inventory))
        if sets:
            whole = layout is not lfw_family.find or sets[0].place == folder
            break
    for path in sorted(folder.glob("*.bin")):
        mine += _tried(bin_files.find, path, inventory)
    inventory.found += mine
    below = _below(folder)
    if whole or depth == _DEPTH or len(below) > _MANY:
        return
    for child in below:
        if not any(one.place == child or child in one.place.parents for one in mine):
            _visit(child, depth + 1, inventory)


def _tried(
    layout: Callable[[Path], list[FoundSet]], folder: Path, inventory: Inventory
) -> list[FoundSet]:
    try:
        return layout(folder)
    except FaceguideError as error:
        inventory.doubtful.append(Doubtful(_named(folder.name), folder, str(error)))
    except OSError as error:
        inventory.doubtful.append(Doubtful(_named(folder.name), folder, remedy(error)))
    return []


def _below(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError:
        return []


def _named(name: str) -> str:
    """The benchmark that a folder is called like; "" = none."""
    plain = re.sub(r"[_ ]", "-", name.lower())
    words = {key: key.replace("-", "-?") for key in BENCHMARKS}
    return next(
        (key for key, word in words.items() if re.search(rf"(?<![a-z]){word}(?![a-z])", plain)), ""
    )
