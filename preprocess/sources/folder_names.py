"""What the names in a folder of photographs say: images, masks, thumbnails, parts of a set."""

# Names are handled as bytes here, which pathlib does not know.
# ruff: noqa: PTH114, PTH118, PTH122, PTH123

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence

from PIL import Image

from faceguide.core.commands.doubts import Doubts
from faceguide.core.faces.decode import FORMATS
from faceguide.preprocess.masks.mask_finder import SUFFIXES as MASK_SUFFIXES

IMAGE_SUFFIXES = tuple(
    b".jpg .jpeg .jpe .jfif .jif .png .bmp .dib .webp .ppm .pgm .pbm .pnm .tif .tiff .gif".split()
)
# Not opened to see what they are: they may be as many as the photographs next to them.
_OTHER_SUFFIXES = frozenset(
    b".txt .csv .tsv .json .xml .yaml .yml .md .html .log .py .sh .mat .npy .npz .pts .pkl"
    b" .h5 .hdf5 .db .ini .zip .tar .gz .7z .bin .rec .idx .lst .mp4 .avi .mov .pdf .svg".split()
)
# Cameras' own formats begin as a TIFF does, but hold no picture that a TIFF reader can show.
_RAW_SUFFIXES = frozenset(b".dng .nef .nrw .cr2 .cr3 .arw .orf .rw2 .pef .raf .srw".split())

# Folders that photo stations, zip programs and desktops make; hidden ones are left out anyway.
THUMBNAIL_FOLDERS = frozenset(
    b"@eadir @recycle #recycle $recycle.bin __macosx thumbnails thumbs _thumbs lost+found".split()
)

# Parts of a set, which are no identity's name.
PARTS_OF_SETS = frozenset(
    b"train training trainset val valid validation test testing testset dev eval evaluation"
    b" query gallery probe probes bounding_box_train bounding_box_test images image imgs img"
    b" photos pictures faces kept_faces clean_faces masks mask labels aligned cropped".split()
)

_READ = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
_NOT_READ = (b"\0\0\0\x0cjP  ", b"\0\0\0\x0cJXL ", b"\xff\x0a")
_MARKS = "|".join(re.escape(suffix) for suffix in MASK_SUFFIXES if suffix)
_MARKED = re.compile(rf"(.+)(?:{_MARKS})\.[^.]*".encode(), re.IGNORECASE | re.DOTALL)
_SHOWN = 32  # of a source's would-be masks are looked at
_FEW_COLOURS = 256
_MOST_PIXELS = 1 << 25  # of a would-be mask that is looked at


def is_image(folder: bytes, name: bytes, *, look_inside: bool) -> bool | None:
    """Whether a file is a photograph by its name, or else by how it begins.

    Args:
        look_inside: it may be opened: it is a regular file, and no link to one elsewhere.

    Returns:
        None for a picture of a format that is not read here.
    """
    if name.lower().endswith(IMAGE_SUFFIXES):
        return True
    suffix = os.path.splitext(name)[1].lower()
    if suffix in _RAW_SUFFIXES:
        return None
    if suffix in _OTHER_SUFFIXES or not look_inside:
        return False
    try:
        with open(os.path.join(folder, name), "rb") as file:
            begin = file.read(32)
    except OSError:
        return False
    if begin[4:8] == b"ftyp":
        if begin[8:12] in (b"avif", b"avis"):
            return True if "AVIF" in FORMATS else None
        return None if begin[8:11] in (b"hei", b"hev", b"mif", b"msf", b"crx") else False
    if begin.startswith(_NOT_READ):
        return None
    windows_bitmap = begin[:2] == b"BM" and begin[6:10] == bytes(4)
    return begin.startswith(_READ) or windows_bitmap or (begin[:4], begin[8:12]) == (
        b"RIFF", b"WEBP"
    )  # fmt: skip


class MaskNames:
    """Tells the masks of photographs that stand next to them: NAME_mask.png next to NAME.jpg.

    The name decides with what the first of a source show: a photograph of a face behind a
    medical mask may be called so too.
    """

    def __init__(self) -> None:
        self._looked_at = self._photographs = 0

    def among(self, folder: bytes, names: Sequence[bytes]) -> set[bytes]:
        """Those of a folder's images that are masks of others there."""
        marked = [match for name in names if (match := _MARKED.fullmatch(name))]
        if not marked:
            return set()
        # 1_mask.png is one of 1.jpg, and 1.jpg_mask.png too.
        photographs = {*names, *(os.path.splitext(name)[0] for name in names)}
        return {
            match[0]
            for match in marked
            if match[1] in photographs and self._is_mask(os.path.join(folder, match[0]))
        }

    def _is_mask(self, path: bytes) -> bool:
        if self._looked_at < _SHOWN:
            self._looked_at += 1
            photograph = _has_many_colours(path)
            self._photographs += photograph
            return not photograph
        return 2 * self._photographs <= self._looked_at


def _has_many_colours(path: bytes) -> bool:
    if os.path.islink(path):
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(os.fsdecode(path), formats=FORMATS) as picture:
                if picture.width * picture.height > _MOST_PIXELS:
                    return False
                picture.draft("RGB", (128, 128))
                picture.thumbnail((128, 128), Image.Resampling.NEAREST)
                return picture.convert("RGB").getcolors(_FEW_COLOURS) is None
    except Exception:  # damaged files raise almost anything; the run says what is wrong
        return False


class Layout:
    """Notices a root whose first level are parts of a set, not identities.

    Rows come folder by folder. Names of parts count where they hold folders, or where they are
    half of all names; without such names, few folders that hold only folders, and more of these
    than sessions of a few people would be.
    """

    _FEW = 10  # folders of the first level

    def __init__(self, root: str) -> None:
        self._root = root
        self._first = ""
        self._firsts: list[str] = []  # the first _FEW + 1
        self._count = 0
        self._named: dict[str, bool] = {}  # names of parts, and whether they hold folders
        self._seconds: set[str] = set()
        self._direct = False

    def see(self, key: str) -> None:
        """An image below a folder."""
        first, second, *deeper = key.split("/", 2)
        if first != self._first:
            self._first = first
            self._count += 1
            if len(self._firsts) <= self._FEW:
                self._firsts.append(first)
            if os.fsencode(first.lower()) in PARTS_OF_SETS:
                self._named[first] = False
        if deeper:
            if first in self._named:
                self._named[first] = True
            if len(self._seconds) <= 2 * self._FEW:
                self._seconds.add(second)
        else:
            self._direct = True

    def judge(self, doubts: Doubts) -> None:
        """Add what looks like parts of a set."""
        parts = list(self._named)
        if 2 * len(parts) < self._count:
            parts = [name for name, nested in self._named.items() if nested]
        few = not self._direct and self._count <= self._FEW
        if not parts and few and len(self._seconds) > 2 * self._count:
            parts = self._firsts
        for name in parts:
            doubts.add("parts_as_identities", repr(f"{self._root}/{name}"))
