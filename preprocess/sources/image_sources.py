"""Where images come from: folders, CSV manifests, RecordIO, verification and twin sets, by row.

A source lists its rows in a fixed order without holding them, and reads one row at a time.
Listing tolerates what it can and reports it in `problems()`; a row that cannot be read raises
`ReadError`, so that one bad file is one recorded failure.
"""

# Names are handled as bytes here, which pathlib does not know, and resolved before they are opened.
# ruff: noqa: PTH116, PTH118

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.pairs.twin_lists import IMAGES_OF_TWINS, twins_of_folder
from faceguide.core.formats import recordio, verification_bin
from faceguide.preprocess.sources.csv_source import ManifestSource
from faceguide.preprocess.sources.folder_names import THUMBNAIL_FOLDERS, Layout, MaskNames, is_image
from faceguide.preprocess.sources.set_source import SetSource
from faceguide.preprocess.sources.source_files import is_inside, read_inside
from faceguide.preprocess.sources.source_row import (
    ReadError,
    Source,
    SourceError,
    SourceRow,
)
from faceguide.preprocess.sources.twin_source import TwinSource

__all__ = ["ReadError", "Source", "SourceError", "SourceRow", "open_source"]


_TABLES = (".csv", ".tsv")
_EXACT = 1 << 24  # float32 has every whole number below


def open_source(
    path: Path, *, flat: bool = False, root: Path | None = None, layout: str = "folders"
) -> Source:
    """The source at `path`: a folder, or a .csv, .rec, .bin or ND-TWIN's .json file.

    Args:
        path: a folder's first level names the identities, and images directly in it have none;
            a folder with id_to_images.json is read by that;
            a .csv has a header with `path`, `identity` if known, and any further columns;
            next to a .rec its .idx is used if it is there.
        flat: take a folder's images at any depth, without identities.
        root: the folder that the paths of a .csv start in; None = its own.
        layout: "auto" reads a folder by the layouts of published test sets.

    Raises:
        SourceError: when there is nothing of these kinds at `path`.
    """
    if root is not None and path.suffix.lower() not in _TABLES:
        raise SourceError(f"{path}: --root is for a CSV; leave it out")
    if layout == "auto":
        if flat or not path.is_dir():
            raise SourceError(
                f"{path}: --source-layout is for folders, without --flat; leave it out"
            )
        return SetSource(path)
    if path.is_dir():
        twins = path / IMAGES_OF_TWINS
        return TwinSource(twins) if twins.is_file() and not flat else FolderSource(path, flat)
    if not path.exists():
        raise SourceError(f"{path}: no such file or folder")
    kinds: dict[str, Callable[[Path], Source]] = {
        **dict.fromkeys(_TABLES, partial(ManifestSource, root=root)),
        ".rec": RecordSource,
        ".bin": BinSource,
        ".json": TwinSource,
    }
    kind = kinds.get(path.suffix.lower())
    if kind is None or not path.is_file():
        raise SourceError(f"{path}: expected a folder, or a .csv, .rec, .bin or .json file")
    if flat:
        raise SourceError(f"{path}: --flat is for folders; leave it out")
    return kind(path)


class FolderSource(Source):
    """Images in folders, in the order of their name's bytes, hidden ones left out.

    So are masks that stand next to their photographs, and folders of thumbnails. Links are followed
    while they stay inside the folder, each linked folder once. No more than the listings from the
    root to the folder at hand are held. A file of ND-TWIN's pairs, in the folder or beside it, adds
    `split` and `twins` of each identity.
    """

    kind = "folder"

    def __init__(self, path: Path, flat: bool = False) -> None:
        super().__init__(path)
        self.flat = flat
        self._twins = None if flat else twins_of_folder(path)
        if self._twins is not None:
            self.columns = ("split", "twins")

    def rows(self) -> Iterator[SourceRow]:
        self._begin()
        root = os.fsencode(self.path)
        self._masks, layout = MaskNames(), Layout(self.path.name)
        linked: set[tuple[int, int]] = set()
        meta: dict[str, dict[str, str]] = {}
        if self._twins is not None:
            self.doubts.update(self._twins.doubts)
            found = (self._twins.split_of(), self._twins.groups())
            meta = {n: defaultdict(str, of) for n, of in zip(self.columns, found, strict=True)}
        # Folders from the root to the one at hand: (prefix of keys, its entries, identity).
        stack = [(b"", self._entries(b""), _inode(root))]
        while stack:
            prefix, entries, _ = stack[-1]
            entry = next(entries, None)
            if entry is None:
                stack.pop()
                continue
            name, is_folder, is_link = entry
            key = prefix + name
            if not is_folder:
                text = os.fsdecode(key)
                known = not self.flat and "/" in text
                if known:
                    layout.see(text)
                identity = text.split("/", 1)[0] if known else ""
                yield SourceRow(text, identity, {name: of[identity] for name, of in meta.items()})
                continue
            try:
                inode = _inode(os.path.join(root, key))
            except OSError:
                self._note("folders that could not be read", _shown(key))
                continue
            if any(inode == above for _, _, above in stack):
                self.doubts.add("links_upwards", _shown(key))
                continue
            if is_link:
                if not is_inside(os.path.join(root, key), root):
                    self.doubts.add("links_outside", _shown(key))
                    continue
                if inode in linked:
                    self.doubts.add("links_repeated", _shown(key))
                    continue
                linked.add(inode)
            stack.append((key + b"/", self._entries(key), inode))
        layout.judge(self.doubts)

    def _entries(self, key: bytes) -> Iterator[tuple[bytes, bool, bool]]:
        """(name, is a folder, is a link) of the folders and images in one folder, sorted."""
        found: list[tuple[bytes, bool, bool]] = []
        folder = os.path.join(os.fsencode(self.path), key)
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith(b"."):
                        continue
                    try:
                        self._enter(folder, key, entry, found)
                    except OSError:
                        self._note("entries that could not be read", _shown(key, entry))
        except OSError:
            self._note("folders that could not be read", _shown(key))
        found.sort()
        masks = self._masks.among(folder, [name for name, is_folder, _ in found if not is_folder])
        if masks:
            first = _shown(os.path.join(key, min(masks)))
            self.doubts.add("masks_beside_images", first, len(masks))
        return iter([entry for entry in found if entry[1] or entry[0] not in masks])

    def _enter(
        self,
        folder: bytes,
        key: bytes,
        entry: os.DirEntry[bytes],
        found: list[tuple[bytes, bool, bool]],
    ) -> None:
        is_link = entry.is_symlink()
        if entry.is_dir():
            if entry.name.lower() in THUMBNAIL_FOLDERS:
                self.doubts.add("thumbnail_folders", _shown(key, entry))
            else:
                found.append((entry.name, True, is_link))
            return
        is_file = is_link or entry.is_file()  # a broken link fails when it is read
        picture = is_image(folder, entry.name, look_inside=is_file and not is_link)
        if picture is None:
            self.doubts.add("unread_formats", _shown(key, entry))
        elif not picture:
            self._note("files that are not images", _shown(key, entry))
        elif is_file:
            found.append((entry.name, False, is_link))
        else:
            self._note("named as images, but no files", _shown(key, entry))

    def read(self, row_key: str, at: int) -> bytes:
        return read_inside(self.path, row_key)


class RecordSource(Source):
    """The images of an insightface .rec file; the identity is the first label, −1 means none."""

    kind = "rec"

    def rows(self) -> Iterator[SourceRow]:
        """A damaged record is a row too: reading it fails, and that is recorded.

        Raises:
            RecordError: when the index is no index.
        """
        self._begin()
        images = 0
        for entry in recordio.entries(self.path):
            images += 1
            if entry.fault:
                self._note("records that cannot be read", entry.fault)
            elif math.isfinite(entry.label) and not (
                entry.label.is_integer() and -1 <= entry.label < _EXACT
            ):
                self.doubts.add("odd_labels", f"{entry.label:g} of record {entry.key}")
            identity = "" if entry.fault else _identity(entry.label)
            yield SourceRow(f"{entry.key:08d}", identity, {}, entry.offset)
        declared = recordio.declared_images(self.path)
        if declared is not None and np.float32(declared + 1) != np.float32(images + 1):
            self.doubts.add("header_count", f"{declared:,.0f} promised, {images:,} there")

    def read(self, row_key: str, at: int) -> bytes:
        try:
            image = recordio.read_record(self.path, at).image
        except recordio.RecordError as error:
            raise ReadError("damaged", f"{self.path.name}: {error}") from error
        except OSError as error:
            raise ReadError("unreadable", f"{self.path.name}: {error.strerror}") from error
        if not image:
            raise ReadError("damaged", f"{self.path.name}: record {row_key} holds no image")
        return image


class BinSource(Source):
    """The images of a verification set; it names no identities."""

    kind = "bin"

    def rows(self) -> Iterator[SourceRow]:
        """Two rows for each pair, in the file's order.

        Raises:
            VerificationBinError: when the file is no verification set.
        """
        for number in range(len(verification_bin.load(self.path).images)):
            yield SourceRow(verification_bin.image_key(number), "", {}, number)

    def read(self, row_key: str, at: int) -> bytes | NDArray[np.uint8]:
        try:
            images = verification_bin.load(self.path).images
        except verification_bin.VerificationBinError as error:
            raise ReadError("damaged", str(error)) from error
        except OSError as error:
            raise ReadError("unreadable", f"{self.path.name}: {error.strerror}") from error
        if not 0 <= at < len(images):
            raise ReadError("missing", f"{self.path.name}: image {row_key} of {len(images)}")
        return images[at]


def _identity(label: float) -> str:
    """A label's name; of labels with a fraction none are merged."""
    if not math.isfinite(label):
        return "nan"
    return str(int(label)) if label.is_integer() else str(np.float32(label))


def _shown(key: bytes, entry: os.DirEntry[bytes] | None = None) -> str:
    """A name as it may appear in a message: control characters escaped."""
    return repr(os.fsdecode(os.path.join(key, entry.name) if entry else key))


def _inode(path: bytes) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino
