"""LFW and the sets made of it or like it: a list of pairs next to, or above, a folder of images."""

from __future__ import annotations

import re
from pathlib import Path

from faceguide.cache.pairs.pair_lists import read_pairs
from faceguide.core.errors import ListError
from faceguide.preprocess.public_sets.found_set import FoundSet, counted
from faceguide.preprocess.public_sets.listed_images import image_folder, located

# Part of the name of the list or its folder → the set, the first that fits.
_FAMILY = ("xqlfw", "mlfw", "calfw", "cplfw", "agedb", "mfr2", "lfw")
_SETS = {"agedb": "agedb-30"}
_LIST = re.compile(r"(?!.*dev(test|train))(.*pairs.*|.*_ann)\.(txt|csv)", re.IGNORECASE)
_NUMBERS = re.compile(r"(_\d+)+$")


def find(folder: Path) -> list[FoundSet]:
    """The sets whose list lies in `folder`, one a benchmark.

    Raises:
        ListError: when a list of theirs is in no known layout.
    """
    found: dict[str, FoundSet] = {}
    lists = sorted(path for path in folder.glob("*") if _LIST.fullmatch(path.name))
    lists.sort(key=lambda path: path.name != "pairs.txt")
    for path in lists:
        benchmark = _benchmark(path.name) or _benchmark(folder.name)
        if benchmark is None or benchmark in found or not path.is_file():
            continue
        listed = read_pairs(path)
        place = image_folder(folder, listed.first)
        if place is None:
            raise ListError(
                f"{path}: none of its images, such as {listed.first[0]}, is below {folder}"
            )
        pairs, images = located(place, listed)
        people = {image: _identity(benchmark, image) for image in images}
        found[benchmark] = counted(FoundSet(benchmark, place, images=people, pairs={"": pairs}))
    return list(found.values())


def _benchmark(name: str) -> str | None:
    key = next((key for key in _FAMILY if key in name.lower()), None)
    return None if key is None else _SETS.get(key, key)


def _identity(benchmark: str, image: str) -> str:
    """Who an image shows, by LFW's convention `Name/Name_0001.jpg` or `Name_0001.jpg`; else ""."""
    folder, _, name = image.rpartition("/")
    person = _NUMBERS.sub("", name.rpartition(".")[0])
    kept = not folder or folder.rpartition("/")[2] == person
    return person if kept and benchmark != "agedb-30" else ""
