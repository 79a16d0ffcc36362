"""RFW and BFW: sets whose groups have figures of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from faceguide.cache.pairs.list_text import find_table
from faceguide.cache.pairs.pair_lists import PairList, read_pairs
from faceguide.core.errors import ListError
from faceguide.preprocess.public_sets.found_set import FoundSet, counted
from faceguide.preprocess.public_sets.listed_images import image_folder, located

_RACES = ("African", "Asian", "Caucasian", "Indian")


def find_rfw(folder: Path) -> list[FoundSet]:
    """RFW where `folder`, or its part `test`, has `txts/RACE/RACE_pairs.txt`.

    The images are below `data/RACE`, in folders of identities.

    Raises:
        ListError: when a list is in another form, or has no image.
    """
    root = next((r for r in (folder, folder / "test") if (r / "txts").is_dir()), None)
    if root is None:
        return []
    lists = {race: root / "txts" / race / f"{race}_pairs.txt" for race in _RACES}
    if not any(path.is_file() for path in lists.values()):
        return []
    pairs: dict[str, PairList] = {}
    images: dict[str, str] = {}
    notes = []
    for race, path in lists.items():
        if not path.is_file():
            notes.append(f"{race}: no {path.relative_to(folder)}")
            continue
        listed = read_pairs(path)
        place = image_folder(root / "data" / race, listed.first)
        if place is None:
            notes.append(f"{race}: no image of its list below {root / 'data' / race}")
            continue
        below = place.relative_to(root).as_posix()
        there, paths = located(place, listed)
        sides = [[f"{below}/{name}" for name in side] for side in (there.first, there.second)]
        pairs[race] = PairList(sides[0], sides[1], there.same, there.fold)
        images |= {f"{below}/{path}": path.split("/", 1)[0] for path in paths}
    if not pairs:
        raise ListError(f"{folder}: {'; '.join(notes)}")
    return [counted(FoundSet("rfw", root, images=images, pairs=pairs, notes=tuple(notes)))]


def find_bfw(folder: Path) -> list[FoundSet]:
    """BFW where `folder` has its table of pairs, `bfw*.csv` with p1, p2, label, att1 and att2.

    All pairs together, and those within each subgroup.

    Raises:
        ListError: when the table is in another form, or has no image.
    """
    for path in sorted(folder.glob("*.csv")):
        if not path.name.lower().startswith("bfw"):
            continue
        table = find_table(path, lambda names: {"p1", "p2", "label"} <= set(names))
        if table is None:
            continue
        listed = read_pairs(path)
        place = image_folder(folder, listed.first)
        if place is None:
            raise ListError(
                f"{path}: none of its images, such as {listed.first[0]}, is below {folder}"
            )
        every, paths = located(place, listed)
        pairs = {"all": every}
        if {"att1", "att2"} <= set(table.names):
            at = [table.names.index(name) for name in ("att1", "att2")]
            groups = np.array([[cells[place] for place in at] for _, cells in table.records])
            for group in np.unique(groups[:, 0]).tolist():
                pairs[group] = _part(every, (groups == group).all(1))
        people = {path: path.rpartition("/")[0] for path in paths}
        return [FoundSet("bfw", place, images=people, pairs=pairs)]
    return []


def _part(listed: PairList, chosen: np.ndarray) -> PairList:
    places = np.flatnonzero(chosen)
    return PairList(
        [listed.first[place] for place in places],
        [listed.second[place] for place in places],
        listed.same[places],
        None if listed.fold is None else listed.fold[places],
    )
