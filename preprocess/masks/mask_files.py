"""Mask files: finding the one that belongs to an image, and reading it as visible shares."""

from __future__ import annotations

import filecmp
import functools
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from faceguide.cache.pairs.list_text import find_table
from faceguide.core.faces.decode import upright
from faceguide.preprocess.masks.mask_values import FEW_SHADES, MaskError, shares_of

SUFFIXES = ("", "_mask", "_gt", "-mask")
EXTENSIONS = (".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg", ".webp")
# Pillow's readers of other formats run programs or decode what no mask is stored in.
FORMATS = ("PNG", "BMP", "TIFF", "JPEG", "WEBP")
MAX_PIXELS = 2**26  # more than cameras make; a mask of so many takes a second or two

MaskClass = int | tuple[int, int, int]


@dataclass(frozen=True)
class MaskSettings:
    """What the values of mask files mean.

    Attributes:
        polarity: what a marked pixel is: one that is white, opaque or of a named class.
        classes: the class ids or colours of marked pixels; empty for masks of one class.
    """

    polarity: Literal["visible", "occluded"]
    classes: tuple[MaskClass, ...] = ()


def parse_class(text: str) -> MaskClass:
    """``"2"`` → 2, a class id; ``"0,128,0"`` → (0, 128, 0), a colour.

    Raises:
        MaskError: for anything else.
    """
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 1 and 0 <= numbers[0] <= 65535:
        return numbers[0]
    if len(numbers) == 3 and all(0 <= number <= 255 for number in numbers):
        return numbers[0], numbers[1], numbers[2]
    raise MaskError(f"invalid class {text!r}; expected an id such as 2 or a colour such as 0,128,0")


def read_mask(
    path: Path, settings: MaskSettings, seen: set[MaskClass] | None = None
) -> NDArray[np.float32]:
    """Read a mask file as visible shares.

    Without classes: black is 0 and white 1 for 1-bit, 8-bit, 16-bit and float grey, for colour
    images and palettes that hold only greys; files with no value above 1 are 0/1; the alpha
    channel is the mask where there is one, unless it is opaque everywhere over a grey image. A
    coloured palette with indices 0 and 1 marks index 1. Values that look like class ids, by
    their histogram, are refused. With classes: pixels with one of the ids (grey value or palette
    index) or colours are marked.

    Args:
        seen: receives the classes that occur in this file, so that a caller can warn of those
            that occur nowhere.

    Returns:
        (H, W) float32 in 0 … 1, 1 = visible.

    Raises:
        MaskError: one line that names the file and what to do.
    """
    try:
        image, lossy = _load(path)
        if not settings.classes:
            marked = _shares(image, lossy)
        elif lossy:
            raise MaskError(f"{lossy} smears class ids and colours; convert the original to PNG")
        else:
            marked = _classes(image, settings.classes, seen)
    except MaskError as error:
        raise MaskError(f"{path}: {error}") from error.__cause__
    return marked if settings.polarity == "visible" else 1.0 - marked


def _load(path: Path) -> tuple[Image.Image, str]:
    """Decode within limits; also the name of the format when it is lossy, else ""."""
    try:
        with warnings.catch_warnings():
            # The size is checked below, with a limit of our own; odd metadata hides no pixel.
            warnings.simplefilter("ignore")
            # By its name, Pillow would map a plain TIFF that is stored turned, and read it wrongly.
            with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise MaskError(f"{width}×{height} pixels are too many; reduce it")
                if getattr(image, "n_frames", 1) != 1:
                    raise MaskError("holds several images, expected one; split it")
                return upright(image), _lossy(image, path)
    except MaskError:
        raise
    except Image.DecompressionBombError as error:
        raise MaskError(f"more than {MAX_PIXELS} pixels are too many; reduce it") from error
    except Exception as error:  # damaged files raise whatever the decoder stumbles on
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        elif isinstance(error, UnidentifiedImageError):
            reason = f"none of {', '.join(FORMATS)}"
        else:
            reason = " ".join(str(error).split()) or type(error).__name__
        raise MaskError(f"cannot be read ({reason}); re-encode it as PNG") from error


def _lossy(image: Image.Image, path: Path) -> str:
    if image.format == "TIFF" and "jpeg" in str(image.info.get("compression", "")):
        return "JPEG"
    if image.format != "WEBP":
        return "JPEG" if image.format == "JPEG" else ""
    with path.open("rb") as file:
        file.seek(12)
        while len(chunk := file.read(8)) == 8:
            if chunk[:4] in (b"VP8 ", b"VP8L"):
                return "lossy WebP" if chunk[:4] == b"VP8 " else ""
            file.seek(int.from_bytes(chunk[4:], "little") + 1 & ~1, os.SEEK_CUR)
    return ""


def _classes(
    image: Image.Image, classes: tuple[MaskClass, ...], seen: set[MaskClass] | None
) -> NDArray[np.float32]:
    ids: NDArray[np.generic] | None = None
    colours: list[NDArray[np.uint8]] = []
    marked = np.zeros((image.height, image.width), bool)
    for wanted in classes:
        if isinstance(wanted, int):
            ids = _ids(image) if ids is None else ids
            match = ids == wanted
        else:
            colours = colours or [np.asarray(band) for band in image.convert("RGB").split()]
            red, green, blue = (band == value for band, value in zip(colours, wanted, strict=True))
            match = red & green & blue
        if seen is not None and match.any():
            seen.add(wanted)
        marked |= match
    return marked.astype(np.float32)


def _ids(image: Image.Image) -> NDArray[np.generic]:
    if image.mode in ("1", "L", "P", "I", "I;16", "I;16B"):
        return np.asarray(image)
    grey = _grey(image, tolerance=0)
    if grey is None:
        raise MaskError("holds colours, but --class names an id; name colours, as in 0,128,0")
    return grey


def _grey(image: Image.Image, tolerance: int) -> NDArray[np.uint8] | None:
    """The grey values of a colour image, None when its channels differ."""
    red, green, blue = (np.asarray(band) for band in image.convert("RGB").split())
    # Band by band: reducing over a last axis of three takes several times as long.
    spread = np.maximum(np.maximum(red, green), blue)
    spread -= np.minimum(np.minimum(red, green), blue)
    return green if spread.max() <= tolerance else None


def _shares(image: Image.Image, lossy: str) -> NDArray[np.float32]:
    mode = image.mode
    if mode == "1":
        return np.asarray(image).astype(np.float32)
    if mode == "L":
        return shares_of(np.asarray(image), 255, lossy)
    if mode in ("I", "I;16", "I;16B"):
        return shares_of(np.asarray(image), 65535, lossy)
    if mode == "F":
        values = np.asarray(image)
        if not (np.isfinite(values).all() and values.min() >= 0.0 and values.max() <= 1.0):
            raise MaskError("its floating-point values leave 0 … 1; scale them")
        if 0.0 < values.max() <= FEW_SHADES:
            raise MaskError(f"its largest value is {values.max():.4f} of 1; scale them")
        return values.astype(np.float32)
    if mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        alpha = np.asarray(rgba.getchannel("A"))
        # Paint programs add an alpha channel that says nothing to a black and white picture.
        grey = _grey(rgba, tolerance=0) if alpha.min() == 255 else None
        return shares_of(alpha if grey is None else grey, 255, lossy)
    if mode == "P":
        indices = np.asarray(image)
        grey = _grey(image, tolerance=0)
        return shares_of(indices if grey is None else grey, 255, lossy)
    if mode == "RGB":
        grey = _grey(image, tolerance=16 if lossy else 0)
        if grey is None:
            raise MaskError(
                "holds colours; name those of marked pixels with --class, as in --class 0,128,0"
            )
        return shares_of(grey, 255, lossy)
    raise MaskError(f"has the colour mode {mode}, expected grey, RGB, RGBA or a palette")


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
