"""ND-TWIN's list of images as a source: identities, groups of twins and splits."""

# Names are handled as text with surrogates here, as in the other sources.
# ruff: noqa: PTH117, PTH118

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from faceguide.cache.pairs.twin_lists import read_images_of_twins
from faceguide.preprocess.sources.source_files import read_inside
from faceguide.preprocess.sources.source_row import Source, SourceRow


class TwinSource(Source):
    """The images of `id_to_images.json`; `split` and `twins` come from the pairs next to it.

    Paths are relative to the file's folder. Of a path that names no file there, as where the set
    was moved, the longest end that does is taken.
    """

    kind = "twins"
    columns = ("split", "twins")

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._cut = 0  # folders that the last moved path lost

    def rows(self) -> Iterator[SourceRow]:
        """The rows in the file's order.

        Raises:
            ListError: when the file is in another form.
        """
        self._begin()
        twins = read_images_of_twins(self.path)
        self.doubts.update(twins.doubts)
        groups, splits = twins.groups(), twins.split_of()
        for identity, paths in twins.images.items():
            meta = {"split": splits.get(identity, ""), "twins": groups.get(identity, "")}
            for path in paths:
                yield SourceRow(self._key(path), identity, meta)

    def _key(self, written: str) -> str:
        path = written.replace("\\", "/").removeprefix("./")
        root = str(self.path.parent)
        if not os.path.isabs(path) and os.path.lexists(os.path.join(root, path)):
            return path
        parts = [part for part in path.split("/") if part]
        for cut in (self._cut, *range(len(parts))):
            end = "/".join(parts[cut:])
            if end and os.path.lexists(os.path.join(root, end)):
                self._cut = cut
                self.doubts.add("moved_images", repr(written))
                return end
        return "/".join(parts)  # reading it fails, which is recorded

    def read(self, row_key: str, at: int) -> bytes:
        return read_inside(self.path.parent, row_key)
