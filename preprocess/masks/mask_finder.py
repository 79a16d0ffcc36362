"""Finding the mask file that belongs to an image."""

from __future__ import annotations

import filecmp
import functools
import os
from collections.abc import Iterator
from pathlib import Path, PurePath, PurePosixPath

from faceguide.cache.pairs.list_text import find_table
from faceguide.preprocess.masks.mask_values import MaskError

SUFFIXES = ("", "_mask", "_gt", "-mask")
EXTENSIONS = (".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg", ".webp")


class MaskFinder:
    """Finds the mask of an image under one folder, without listing the folder.

    The folder may repeat the tree of the images or be flat, and file names may end in one of
    `SUFFIXES`: ``images/a.jpg`` has its mask in ``masks/images/a.png``, ``masks/a_mask.png``, …
    """

    def __init__(self, root: Path, table: Path | None = None, source: Path | None = None) -> None:
        """
        Args:
            table: CSV with the columns image (key of a row: path relative to the images' folder)
                and mask (path relative to `root`); nothing else is then looked for.
            source: folder of the images, which may be the folder of masks too; an image, or a
                copy of it, is not taken for its own mask.

        Raises:
            MaskError: when `root` is no folder or `table` cannot be used.
            ListError: when `table` is no text.
        """
        if not root.is_dir():
            raise MaskError(f"{root}: expected a folder of masks")
        self.root = root
        self._real = os.path.realpath(root)
        self.source = source
        self.table = None if table is None else _read_table(table)
        self.loose: list[str] = []  # names of the table that may be another image's
        self._folders: dict[str, bool] = {}

    def find(self, key: str) -> Path | None:
        """The mask of the image `key`, None when there is none.

        Raises:
            MaskError: when two files could be it, or the table names a file that is not there.
        """
        if self.table is not None:
            name = self.table.get(key)
            if name is None:
                return None
            path = self.root / name
            # os.path.isfile is false, not an error, for names the system refuses.
            if not os.path.isfile(path):  # noqa: PTH113
                raise MaskError(f"{path}: the table names this mask of {key!r}, but it is missing")
            return self._inside(path)
        if not _stays_inside(key):
            raise MaskError(f"the row key {key!r} leads out of the folder of masks")
        image = PurePosixPath(key)
        found: list[str] = []
        for folder in dict.fromkeys((str(image.parent), ".")):
            if not self._has(folder):
                continue
            stem = str(self.root / folder / image.stem)
            for suffix in SUFFIXES:
                for extension in EXTENSIONS:
                    candidate = stem + suffix + extension
                    # os.path.isfile is false, not an error, for names the system refuses.
                    if os.path.isfile(candidate) and not self._is_image(candidate, key):  # noqa: PTH113
                        found.append(candidate)
        if len(found) > 1:
            raise MaskError(
                f"two masks for {key!r}: {found[0]} and {found[1]}; remove one or say which by CSV",
                *found,
            )
        return self._inside(Path(found[0])) if found else None

    def _is_image(self, candidate: str, key: str) -> bool:
        """Whether a file is the image `key` itself, or a copy of it."""
        if self.source is None or not candidate.endswith("/" + PurePosixPath(key).name):
            return False
        own = str(self.source / key)
        try:  # bytes are read only where the sizes agree
            return candidate == own or filecmp.cmp(candidate, own, shallow=False)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _inside(self, path: Path) -> Path:
        """The mask, unless a link leads out of the folder."""
        real = os.path.realpath(path)
        if not real.startswith(self._real.rstrip("/") + "/"):
            raise MaskError(
                f"{path}: leads out of the folder of masks; copy the file into it", str(path)
            )
        return path

    def _has(self, folder: str) -> bool:
        """Whether a folder exists; asked once, as a flat folder of masks has none of the tree."""
        if folder not in self._folders:
            self._folders[folder] = os.path.isdir(self.root / folder)  # noqa: PTH112
        return self._folders[folder]

    def walk(self) -> Iterator[Path]:
        """Every mask once: those the table names, else all files under the folder.

        Where the masks lie among the images, only names with a suffix such as _mask are masks.
        """
        if self.table is not None:
            yield from (self.root / name for name in dict.fromkeys(self.table.values()))
            return
        for path in self._files():
            named = not self.beside or mask_stem(path) != path.stem
            if path.suffix.lower() in EXTENSIONS and named:
                yield path

    def others(self) -> Iterator[Path]:
        """Files under the folder of kinds that are not read as masks."""
        if self.table is None:
            for path in self._files():
                if path.suffix.lower() not in EXTENSIONS and not path.name.startswith("."):
                    yield path

    @functools.cached_property
    def beside(self) -> bool:
        """Whether the folder of masks is the folder of the images."""
        return self.source is not None and os.path.realpath(self.source) == self._real

    def _files(self) -> Iterator[Path]:
        visited: set[tuple[int, int]] = set()
        for folder, below, names in os.walk(self.root, followlinks=True):
            status = os.stat(folder)  # noqa: PTH116
            if (status.st_dev, status.st_ino) in visited:  # a loop of links
                below.clear()
                continue
            visited.add((status.st_dev, status.st_ino))
            for name in names:
                path = Path(folder, name)
                # os.path.isfile is false, not an error, for names the system refuses.
                if os.path.isfile(path):  # noqa: PTH113
                    yield path


def mask_stem(path: PurePath) -> str:
    """The name of the image that a mask belongs to: its own without folders and suffixes."""
    for suffix in SUFFIXES[1:]:
        if path.stem.endswith(suffix):
            return path.stem.removesuffix(suffix)
    return path.stem


def _stays_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and path.name != ""


def _read_table(table: Path) -> dict[str, str]:
    """image → mask; every fault is one line with the number of its line."""
    found = find_table(table, {"image", "mask"}.issubset)
    if found is None:
        raise MaskError(f"{table}: expected a header with the columns image and mask")
    places = [found.names.index(name) for name in ("image", "mask")]
    masks: dict[str, str] = {}
    for line, cells in found.records:
        image, mask = ("".join(cells[place : place + 1]) for place in places)
        at = f"{table} line {line}"
        if not image or not mask:
            raise MaskError(f"{at}: expected an image and a mask, found an empty cell")
        if not _stays_inside(mask):
            raise MaskError(
                f"{at}: {mask!r} leads out of the folder of masks; give a path inside it"
            )
        if masks.setdefault(image, mask) != mask:
            raise MaskError(f"{at}: {image!r} has two masks, {masks[image]!r} and {mask!r}")
    return masks
