"""Sets that are searched: folders of those who are enrolled and of those who are searched for."""

from __future__ import annotations

import re
from pathlib import Path

from faceguide.preprocess.public_sets.found_set import Form, FoundSet, SearchLists
from faceguide.preprocess.public_sets.listed_images import images_below

_TINYFACE = ("Probe", "Gallery_Match", "Gallery_Distractor")
_MASKED, _BARE = "AFDB_masked_face_dataset", "AFDB_face_dataset"
_MUGSHOTS = ("mugshot_frontal_cropped_all", "mugshot_frontal_original_all")
_CAMERA = re.compile(r"(\d+)_cam[1-5]_\d")  # 6 to 8 see infrared


def find_tinyface(folder: Path) -> list[FoundSet]:
    """TinyFace where `folder`, or its part Testing_Set, has Probe and Gallery_Match."""
    places = (folder, folder / "Testing_Set")
    root = next((r for r in places if all((r / part).is_dir() for part in _TINYFACE[:2])), None)
    if root is None:
        return []
    sides = ([(image, image) for image in images_below(root, part)] for part in _TINYFACE)
    return [tinyface(root, "images", *sides)]


def tinyface(
    root: Path,
    form: Form,
    probes: list[tuple[str, str]],
    match: list[tuple[str, str]],
    distractors: list[tuple[str, str]],
) -> FoundSet:
    """TinyFace of images, each (path below `root`, name that begins with its identity).

    Distractors are enrolled too, each as an identity of its own: so each that scores higher than
    the right identity costs a rank.
    """
    known = {image: _number(name) for image, name in (*probes, *match)}
    alone = {image: f"distractor {name}" for image, name in distractors}
    gallery = [(image, known[image]) for image, _ in match] + list(alone.items())
    lists = SearchLists(gallery, [(image, known[image]) for image, _ in probes])
    notes = () if distractors else (f"no {_TINYFACE[2]}: without its images the search is easier",)
    return FoundSet("tinyface", root, form, known | alone, searches={"": lists}, notes=notes)


def find_scface(folder: Path) -> list[FoundSet]:
    """SCface where `folder` has its frontal mugshots; a search a distance of cameras 1 to 5."""
    mugshots = next((name for name in _MUGSHOTS if (folder / name).is_dir()), None)
    if mugshots is None:
        return []
    gallery = [(image, _number(image)) for image in images_below(folder, mugshots)]
    searches, notes = {}, []
    for distance in (1, 2, 3):
        part = f"surveillance_cameras_distance_{distance}"
        probes = [
            (image, _number(image))
            for image in images_below(folder, part)
            if _CAMERA.match(image.rpartition("/")[2])
        ]
        if probes:
            searches[f"distance {distance}"] = SearchLists(gallery, probes)
        else:
            notes.append(f"no images of cameras 1 to 5 in {part}")
    images = dict(gallery) | {k: v for lists in searches.values() for k, v in lists.probes}
    return [FoundSet("scface", folder, images=images, searches=searches, notes=tuple(notes))]


def find_rmfrd(folder: Path) -> list[FoundSet]:
    """RMFRD where `folder` has both AFDB folders: masked faces are searched among bare ones."""
    if not ((folder / _MASKED).is_dir() and (folder / _BARE).is_dir()):
        return []
    sides = []
    for part in (_BARE, _MASKED):
        images = [image for image in images_below(folder, part) if image.count("/") > 1]
        sides.append([(image, image.split("/")[1]) for image in images])
    lists = SearchLists(sides[0], sides[1])
    people = dict(sides[0] + sides[1])
    return [FoundSet("rmfrd", folder, images=people, searches={"": lists})]


def _number(image: str) -> str:
    """The identity of `0012_3.jpg`: what stands before the first underline."""
    return image.rpartition("/")[2].split("_")[0]
