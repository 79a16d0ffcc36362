"""A set on disk: where its images lie, whom they show, what its protocols compare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from faceguide.cache.pairs.pair_lists import PairList
from faceguide.preprocess.public_sets.benchmarks import BENCHMARKS

Form = Literal["images", "bin", "arrow", "ijb"]


@dataclass(frozen=True)
class SearchLists:
    """An identification: (image, identity) of the enrolled and of those that are searched for."""

    gallery: list[tuple[str, str]]
    probes: list[tuple[str, str]]


@dataclass(frozen=True)
class FoundSet:
    """A benchmark that lies in a folder.

    Attributes:
        benchmark: its name in `BENCHMARKS`.
        place: the folder that image paths start in; or the .bin file, the Arrow folder, or IJB's.
        form: how the images come.
        images: path below `place` → identity, "" where it is unknown; of an Arrow folder names that
            unpacking gives; empty for other forms.
        pairs: protocol → pairs; images that are there by their path, others as they are listed.
        searches: protocol → identification.
        notes: what differs from the published protocol; its figures are marked as incomplete.
    """

    benchmark: str
    place: Path
    form: Form = "images"
    images: Mapping[str, str] = field(default_factory=dict)
    pairs: Mapping[str, PairList] = field(default_factory=dict)
    searches: Mapping[str, SearchLists] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def protocols(self) -> list[str]:
        """Names of the protocols in their order; "" = the only one."""
        return [*self.pairs, *self.searches] if self.form != "ijb" else [""]


def counted(found: FoundSet) -> FoundSet:
    """With a note for each list that is not as long as the published one."""
    published = BENCHMARKS[found.benchmark].pairs
    notes = [
        f"{name or 'the list'} has {len(listed):,} pairs, the published one {published:,}"
        for name, listed in found.pairs.items()
        if published is not None and len(listed) != published
    ]
    return replace(found, notes=(*found.notes, *notes))


def named(found: Iterable[FoundSet]) -> list[tuple[str, FoundSet]]:
    """Each set with a name of its own: that of its benchmark, numbered where there are several."""
    seen: Counter[str] = Counter()
    names = []
    for one in found:
        seen[one.benchmark] += 1
        number = seen[one.benchmark]
        names.append((one.benchmark + (f"-{number}" if number > 1 else ""), one))
    return names
