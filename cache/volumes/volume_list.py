"""Which directories are opened as one cache: one, several, or those that a volumes.json lists."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from faceguide.core.commands.shared_options import BETWEEN, Caches
from faceguide.core.errors import CacheError
from faceguide.core.files import reading, write_bytes

FORMAT = 1

Path_ = str | os.PathLike[str]


@dataclass(frozen=True)
class VolumeList:
    """Directories whose rows follow one another.

    Attributes:
        place: what opens the list again: a directory, a file, or directories joined by commas.
        directories: one or more.
        names: one each, for `volume:key`.
        prefixed: identities of different volumes are different, even those of one name.
    """

    place: Path
    directories: tuple[Path, ...]
    names: tuple[str, ...]
    prefixed: bool = False


def listed_volumes(given: Path_ | Sequence[Path_]) -> VolumeList:
    """The directories that are meant.

    Args:
        given: a directory, a file that `write_volumes` or a user wrote, directories joined by
            commas, or a list of directories.

    Raises:
        CacheError: when nothing is given, or the file is not such a list.
    """
    if isinstance(given, (str, os.PathLike)):
        place = Path(given)
        if place.is_file():
            return _read(place)
        parts = Caches.several(str(given)) or [str(given)]
    else:
        parts = [os.fspath(one) for one in given]
    directories = tuple(Path(part) for part in parts if part)
    if not directories:
        raise CacheError("no cache given; name at least one directory")
    resolved = [path.resolve() for path in directories]
    for number, path in enumerate(resolved):
        if path in resolved[:number]:
            raise CacheError(f"{directories[number]}: given twice; its rows would count twice")
    place = directories[0]
    if len(directories) > 1:
        place = Path(BETWEEN.join(map(str, resolved)))
    return VolumeList(place, directories, _names(resolved))


def write_volumes(path: Path, volumes: VolumeList) -> None:
    """Write the list for people to edit; directories are relative to the file's folder."""
    folder = path.resolve().parent
    entries = [
        {"name": name, "path": os.path.relpath(directory.resolve(), folder)}
        for name, directory in zip(volumes.names, volumes.directories, strict=True)
    ]
    about = {"format": FORMAT, "volumes": entries, "prefix_identities": volumes.prefixed}
    write_bytes(path, (json.dumps(about, indent=2, ensure_ascii=False) + "\n").encode())


def _names(directories: Sequence[Path]) -> tuple[str, ...]:
    """The last parts of the paths, as many as tell them apart."""
    for count in range(1, max(len(path.parts) for path in directories) + 1):
        names = ["/".join(path.parts[-count:]) for path in directories]
        if len(set(names)) == len(names):
            break
    return tuple(names)


def _read(path: Path) -> VolumeList:
    try:
        with reading(path):
            record = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CacheError(f"{path}: not a list of volumes: not JSON ({error})") from None
    match record:
        case {"format": 1, "volumes": [_, *_] as entries, **further}:
            prefixed = further.pop("prefix_identities", False)
        case _:
            raise CacheError(
                f'{path}: not a list of volumes: expected {{"format": {FORMAT}, "volumes": '
                '[{"name": …, "path": …}, …]}; `cache volumes` writes one'
            )
    names, directories = [], []
    for entry in entries:
        match entry:
            case {"name": str(name), "path": str(place), **rest} if name and place and not rest:
                names.append(name)
                directories.append(path.parent / place)
            case _:
                raise CacheError(f"{path}: a volume has a name and a path, found {entry!r:.80}")
    if further or not isinstance(prefixed, bool):
        raise CacheError(f"{path}: unknown or unsound fields; `cache volumes` writes such a list")
    for number, (name, directory) in enumerate(zip(names, directories, strict=True)):
        if name in names[:number]:
            raise CacheError(f"{path}: two volumes are called {name!r}; rename one")
        if directory.resolve() in [other.resolve() for other in directories[:number]]:
            raise CacheError(f"{path}: lists {directory} twice; remove one of the two")
        if not directory.is_dir():
            raise CacheError(f"{path}: its volume {directory} is gone; restore it or remove it")
    return VolumeList(path, tuple(directories), tuple(names), prefixed)
