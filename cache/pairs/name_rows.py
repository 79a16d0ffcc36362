"""From the names of a list to rows of a cache, without taking one image for another.

Lists lack suffixes, name images from another root or write letters in another Unicode form. So a
name and a row key are cut into parts, and the one must be the end of the other: `lfw/Ann/1.jpg` is
the row `Ann/1.png`, never the row `Bob/1.jpg`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from faceguide.cache.reader import FaceCache
from faceguide.core.commands.doubts import Doubts

MISSING, AMBIGUOUS = "missing", "ambiguous"
_SUFFIX = re.compile(
    r"\.(jpe?g|jpe|jfif|png|bmp|webp|ppm|pgm|tiff?|gif|avif|hei[cf])$", re.IGNORECASE
)
_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True)
class Matches:
    """What became of the names of a list.

    Attributes:
        rows: name → row, or `MISSING` or `AMBIGUOUS`.
        loose: names that match although one of the two lacks folders.
        doubtful: those of them that match by a file name that restarts in each folder.
    """

    rows: dict[str, int | str]
    loose: list[str]
    doubtful: list[str]

    @property
    def absent(self) -> list[str]:
        return [name for name, row in self.rows.items() if row == MISSING]

    def doubts(self) -> Doubts:
        """What is wrong about names, each kind with its first name."""
        doubts = Doubts()
        for kind, names in (("absent_images", self.absent), ("loose_names", self.doubtful)):
            doubts.add(kind, next(iter(names), ""), len(names))
        return doubts


def find_rows(cache: FaceCache, names: Iterable[str]) -> dict[str, int | str]:
    """The row of each name, or why there is none; `match_names` says how they are matched.

    Returns:
        Name → row, or "missing" or "ambiguous".
    """
    return match_names(cache, names).rows


def match_names(cache: FaceCache, names: Iterable[str]) -> Matches:
    """Match names with row keys.

    A name matches the key that equals it; failing that, the key that equals it without suffixes;
    failing that, a key of which it is the end or that is its end, by whole parts of the path, and
    of such keys the one with most parts in common. Unicode forms of a letter are equal. A name is
    ambiguous when several keys match as well as each other, as a key that stands in several volumes
    of a union does, or when another name of the list that cannot mean the same image matches the
    same row. `volume:name` matches in that volume only.
    """
    paths = {name: name.replace("\\", "/") for name in names}
    clean = {name: path.removeprefix("./").lstrip("/") for name, path in paths.items()}
    exact = cache.find({*clean, *clean.values()})
    rows: dict[str, int | str] = {}
    volume = {name: _prefix(cache, path) for name, path in clean.items()}
    every = {name: _Path.of(path.removeprefix(volume[name])) for name, path in clean.items()}
    for name, path in clean.items():
        if (row := exact.get(name, exact.get(path))) is not None:
            rows[name] = row
    rest = {name: path for name, path in every.items() if name not in rows}
    if not rest:
        return Matches(rows, [], [])
    best: dict[str, _Match] = {}
    listed, renumbered = _Numbering(), set[str]()
    for prefix in sorted({volume[name] for name in rest}):
        search = _Search({name: path for name, path in rest.items() if volume[name] == prefix})
        search.scan(cache, prefix)
        best |= search.best
        renumbered |= search.numbering.kinds
    loose = []
    for name in rest:
        match = best.get(name)
        rows[name] = MISSING if match is None else AMBIGUOUS if match.several else match.row
        if match is not None and not match.several and match.grade[0] == 0:
            loose.append(name)
    _unclaim(rows, rest, every)
    loose = [name for name in loose if not isinstance(rows[name], str)]
    for listed_path in every.values():
        listed.add(listed_path)
    renumbered |= listed.kinds
    doubtful = [
        name
        for name in loose
        if best[name].grade[1] == 1 and _skeleton(rest[name].parts[-1]) in renumbered
    ]
    return Matches({name: rows[name] for name in clean}, loose, doubtful)


def _prefix(cache: FaceCache, path: str) -> str:
    """`volume:` of a path that names one of several volumes, else ""."""
    if len(cache.names) == 1:
        return ""
    return next((f"{name}:" for name in cache.names if path.startswith(f"{name}:")), "")


@dataclass(frozen=True)
class _Path:
    """A name or key: its parts, the last without suffix, and that suffix."""

    parts: tuple[str, ...]
    suffix: str

    @classmethod
    def of(cls, path: str) -> _Path:
        parts = [p for p in unicodedata.normalize("NFC", path).split("/") if p not in ("", ".")]
        if not parts:
            return cls(("",), "")
        stem = _SUFFIX.sub("", parts[-1])
        return cls((*parts[:-1], stem), parts[-1][len(stem) :])

    def ends(self, other: _Path) -> bool:
        """Whether one of the two is the end of the other."""
        common = min(len(self.parts), len(other.parts))
        return self.parts[-common:] == other.parts[-common:]


@dataclass
class _Match:
    """The best row of a name so far."""

    grade: tuple[int, int, int]  # whole path or not, parts in common, same suffix
    row: int
    several: bool = False


class _Numbering:
    """Which kinds of file names restart in each folder: one of their kind is in several."""

    def __init__(self) -> None:
        self.kinds: set[str] = set()
        self._folders: dict[str, tuple[str, ...]] = {}

    def add(self, path: _Path) -> None:
        folder, stem = path.parts[:-1], path.parts[-1]
        if folder and self._folders.setdefault(stem, folder) != folder:
            self.kinds.add(_skeleton(stem))


class _Search:
    """One pass over all keys for the names that are no keys."""

    def __init__(self, names: Mapping[str, _Path]) -> None:
        self.best: dict[str, _Match] = {}
        self.numbering = _Numbering()
        self._names = names
        self._whole: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for name, path in names.items():
            self._whole[path.parts].append(name)
        self._lengths = sorted({len(path.parts) for path in names.values()})
        # Ends of names, by the number of parts of keys that have been met.
        self._ends: dict[int, dict[tuple[str, ...], list[str]]] = {}
        self._bare = {_skeleton(path.parts[0]) for path in names.values() if len(path.parts) == 1}

    def scan(self, cache: FaceCache, only: str) -> None:
        """Look at all keys, or at those of the volume with this prefix."""
        for prefix, rows in cache.blocks():
            if only not in ("", prefix):
                continue
            for row, key in zip(rows, cache.texts("key", rows), strict=True):
                path = _Path.of(key)
                self._offer(row, path)
                if self._bare and _skeleton(path.parts[-1]) in self._bare:
                    self.numbering.add(path)

    def _offer(self, row: int, key: _Path) -> None:
        count = len(key.parts)
        for name in self._whole.get(key.parts, ()):
            self._take(name, row, key, 1, count)
        for length in self._lengths:
            if length < count:
                for name in self._whole.get(key.parts[-length:], ()):
                    self._take(name, row, key, 0, length)
        if count not in self._ends:
            ends = self._ends[count] = defaultdict(list)
            for name, path in self._names.items():
                if len(path.parts) > count:
                    ends[path.parts[-count:]].append(name)
        for name in self._ends[count].get(key.parts, ()):
            self._take(name, row, key, 0, count)

    def _take(self, name: str, row: int, key: _Path, whole: int, common: int) -> None:
        grade = whole, common, int(key.suffix == self._names[name].suffix)
        so_far = self.best.get(name)
        if so_far is None or grade > so_far.grade:
            self.best[name] = _Match(grade, row)
        elif grade == so_far.grade:
            so_far.several = True


def _unclaim(
    rows: dict[str, int | str], rest: Mapping[str, _Path], every: Mapping[str, _Path]
) -> None:
    """Names of `rest` that share their row with a name of another image become ambiguous."""
    claims: dict[int, list[str]] = defaultdict(list)
    for name, row in rows.items():
        if isinstance(row, int):
            claims[row].append(name)
    for claim in claims.values():
        if len(claim) == 1:
            continue
        longest = max((every[name] for name in claim), key=lambda path: len(path.parts))
        suffixes = {every[name].suffix.lower() for name in claim} - {""}
        if len(suffixes) > 1 or not all(every[name].ends(longest) for name in claim):
            for name in claim:
                if name in rest:
                    rows[name] = AMBIGUOUS


def _skeleton(stem: str) -> str:
    """A file name without its numbers: `img_` of `img_0012`."""
    return _DIGITS.sub("", stem)
