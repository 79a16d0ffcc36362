"""CFP as its authors hand it out, and ND-TWIN: sets with a tree of their own."""

from __future__ import annotations

from pathlib import Path

from faceguide.cache.pairs.cfp_lists import read_cfp
from faceguide.cache.pairs.pair_lists import read_pairs
from faceguide.cache.pairs.twin_lists import IMAGES_OF_TWINS, pairs_beside, read_twins
from faceguide.core.errors import ListError
from faceguide.preprocess.public_sets.found_set import FoundSet, counted
from faceguide.preprocess.public_sets.listed_images import image_folder, located


def find_cfp(folder: Path) -> list[FoundSet]:
    """CFP-FF and CFP-FP where `folder` has `Protocol/Split` and `Protocol/Pair_list_F.txt`.

    Raises:
        ListError: when a list is in another form.
    """
    if not (folder / "Protocol" / "Split").is_dir():
        return []
    found = []
    for split in ("FF", "FP"):
        if not (folder / "Protocol" / "Split" / split).is_dir():
            continue
        pairs, images = located(folder, read_cfp(folder, split))
        people = {image: image.rsplit("/", 3)[-3] for image in images}
        name = f"cfp-{split.lower()}"
        found.append(counted(FoundSet(name, folder, images=people, pairs={"": pairs})))
    return found


def find_twins(folder: Path) -> list[FoundSet]:
    """ND-TWIN where `folder` has id_to_images.json and next to it a list of pairs.

    Raises:
        ListError: when a list is in another form, or has no image.
    """
    if not (folder / IMAGES_OF_TWINS).is_file():
        return []
    pairs = {}
    images: dict[str, str] = {}
    notes: dict[str, None] = {}
    place: Path | None = None
    for path in pairs_beside(folder / IMAGES_OF_TWINS):
        twins = read_twins(path)
        notes |= dict.fromkeys(twins.doubts.lines())
        owner = {image: name for name, paths in twins.images.items() for image in paths}
        for split in twins.splits:
            listed = read_pairs(path, split)
            place = place or image_folder(folder, listed.first)
            if place is None:
                raise ListError(
                    f"{path}: none of its images, such as {listed.first[0]}, is below {folder}"
                )
            found, there = located(place, listed)
            pairs[f"{path.stem} {split}"] = found
            names = zip(found.first + found.second, listed.first + listed.second, strict=True)
            present = set(there)
            images |= {image: owner[name] for image, name in names if image in present}
    found_set = FoundSet("nd-twin", place or folder, images=images, pairs=pairs, notes=tuple(notes))
    return [found_set] if pairs else []
