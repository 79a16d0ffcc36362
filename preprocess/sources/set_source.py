"""Published test sets as a source: their images and identities, by their own layouts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from faceguide.preprocess.public_sets.find_sets import find_sets
from faceguide.preprocess.public_sets.found_set import FoundSet, named
from faceguide.preprocess.sources.source_files import read_inside
from faceguide.preprocess.sources.source_row import Source, SourceError, SourceRow


class SetSource(Source):
    """The images of the sets that `evaluate suite` finds in a folder.

    `set` is a set's name there, `part` the folder of an image that is not its identity: the group
    of RFW and BFW, Probe or Gallery_Match of TinyFace, the camera of SCface.
    """

    kind = "sets"
    columns = ("set", "part")

    def rows(self) -> Iterator[SourceRow]:
        """The rows, set by set.

        Raises:
            SourceError: when there is no set whose images are files.
        """
        self._begin()
        inventory = find_sets(self.path)
        for doubtful in inventory.doubtful:
            self._note("folders that are called like a set and are none", str(doubtful))
        usable = []
        for name, found in named(inventory.found):
            if found.form == "images":
                usable.append((name, found))
            else:
                self._note("sets that are no image files, left out", str(found.place))
        if not usable:
            raise SourceError(
                f"{self.path}: no set of a known layout (`evaluate suite --list` shows them); "
                "leave --source-layout out"
            )
        for name, found in usable:
            yield from self._rows_of(name, found)

    def _rows_of(self, name: str, found: FoundSet) -> Iterator[SourceRow]:
        above = found.place.relative_to(self.path)
        for image, identity in sorted(found.images.items()):
            folders = [folder for folder in Path(image).parts[:-1] if folder != identity]
            meta = {"set": name, "part": folders[-1] if folders else ""}
            yield SourceRow((above / image).as_posix(), identity, meta)

    def read(self, row_key: str, at: int) -> bytes:
        return read_inside(self.path, row_key)
