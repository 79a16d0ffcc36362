"""OCFR-2022: a list of images for each protocol, one list of pairs and one of answers for all."""

from __future__ import annotations

import re
from pathlib import Path

from faceguide.cache.pairs.ocfr_lists import read_ocfr
from faceguide.cache.pairs.pair_lists import PairList
from faceguide.core.errors import ListError
from faceguide.preprocess.public_sets.found_set import FoundSet
from faceguide.preprocess.public_sets.listed_images import image_folder, located

_PROTOCOL = re.compile(r"((?:C|O[1-7])_(?:C|O[1-7]))_list\.txt")


def find(folder: Path) -> list[FoundSet]:
    """OCFR-2022 where `folder` has lists such as C_O3_list.txt.

    Raises:
        ListError: when a list is in another form, or the pairs or answers are missing.
    """
    matches = [m for path in sorted(folder.glob("*.txt")) if (m := _PROTOCOL.fullmatch(path.name))]
    if not matches:
        return []
    others = [path for path in sorted(folder.glob("*.txt")) if not _PROTOCOL.fullmatch(path.name)]
    same = _only(folder, "issame", [path for path in others if "same" in path.name.lower()])
    listed = _only(folder, "pairs", [p for p in others if "pair" in p.name.lower() and p != same])
    pairs: dict[str, PairList] = {}
    images: dict[str, str] = {}
    notes = []
    for match in matches:
        names = read_ocfr(folder / match[0], listed, same)
        place = image_folder(folder, names.first + names.second)
        if place is None:
            notes.append(f"{match[1]}: none of its images is below {folder}")
            continue
        # Paths below the set's folder: protocols may have folders of their own.
        below = place.relative_to(folder).as_posix()
        prefix = "" if below == "." else f"{below}/"
        there, paths = located(place, names)
        for side in (there.first, there.second):
            side[:] = [prefix + name for name in side]
        pairs[match[1]] = there
        images |= {prefix + path: "" for path in paths}  # whose folders are not documented
    if not pairs:
        raise ListError(f"{folder}: {'; '.join(notes)}")
    return [FoundSet("ocfr-2022", folder, images=images, pairs=pairs, notes=tuple(notes))]


def _only(folder: Path, what: str, paths: list[Path]) -> Path:
    if len(paths) != 1:
        names = ", ".join(path.name for path in paths) or "none"
        raise ListError(
            f"{folder}: expected one list of {what} next to its *_list.txt, found {names}"
        )
    return paths[0]
