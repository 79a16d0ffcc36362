"""Masks of a cache as `prep masks` and `prep landmarks --masks` make them: settled, then made."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click

from faceguide.cache import manifest
from faceguide.cache.console import say
from faceguide.cache.plan import Plan
from faceguide.preprocess import masks
from faceguide.preprocess.mask_files import MaskFinder, MaskSettings, parse_class
from faceguide.preprocess.work import Where, Work

Polarity = Literal["visible", "occluded"]


@dataclass(frozen=True)
class MaskPlan:
    """What is asked for, checked.

    Attributes:
        settings: where the masks are and what they mean.
        finder: finds them; None without masks.
    """

    settings: masks.OcclusionSettings
    finder: MaskFinder | None


def mask_plan(
    root: Path | None,
    *,
    polarity: Polarity | None,
    classes: tuple[str, ...],
    clean: tuple[str, ...],
    table: Path | None = None,
    grid: int = 7,
) -> MaskPlan:
    """The options of masks as settings.

    Args:
        root: folder of masks; None when there are only clean faces.
        polarity: what a marked pixel is; None = what the layout says.
        classes: ids or colours of marked pixels.
        clean: folders below the source root whose faces nothing covers.
        table: CSV that says which mask belongs to which image.
        grid: cells on a side of a visibility map.

    Raises:
        click.UsageError: when nothing, or no polarity, is known.
        MaskError: for a class or a table that cannot be understood.
    """
    if root is None and not clean:
        raise click.UsageError("give a folder of masks, or --clean for faces that nothing covers")
    root = root.absolute() if root else None
    table = table.absolute() if table else None
    if root is not None and polarity is None:
        polarity = _known_polarity(root)
    settings = masks.OcclusionSettings(
        root=root,
        table=table,
        masks=MaskSettings(polarity, tuple(parse_class(text) for text in classes))
        if root and polarity
        else None,
        clean=clean,
        grid=grid,
    )
    return MaskPlan(settings, MaskFinder(root, table) if root else None)


@dataclass(frozen=True)
class MaskWork:
    """The masks of one cache, ready to be made shard by shard.

    Attributes:
        directory: the cache.
        plan: its plan.
        wanted: the masks.
        recipe: of the occlusion group.
        shared: hashes of stems that several images have.
    """

    directory: Path
    plan: Plan
    wanted: MaskPlan
    recipe: dict[str, Any]
    shared: frozenset[int]

    def run(self, here: Where) -> Work:
        """Make the missing shards of a part; its faces are there."""
        work = functools.partial(
            masks.make_occlusion, self.directory, self.plan, self.recipe, self.wanted.settings,
            self.shared,
        )  # fmt: skip
        mine = Work(self.directory, self.plan, ("occlusion",), here)
        whole, used = mine.run(work)
        if self.wanted.finder is not None and whole:
            _name_unused(self.wanted.finder, {path for paths in used for path in paths})
        return mine


def settle_masks(directory: Path, plan: Plan, wanted: MaskPlan, *, replace: bool) -> MaskWork:
    """What all parts share: the recipe, and the stems that several images have.

    Raises:
        CacheError: when masks of other settings are there and `replace` is False.
    """
    settings = wanted.settings
    manifest.set_recipe(directory, plan, "occlusion", settings.recipe(), replace=replace)
    recipe = manifest.group_recipe(directory, plan, "occlusion")
    assert recipe is not None
    by_stem = settings.root is not None and settings.table is None
    shared = masks.find_shared_stems(directory, plan) if by_stem else frozenset[int]()
    return MaskWork(directory, plan, wanted, recipe, shared)


def _known_polarity(root: Path) -> Polarity:
    """The layout kept_faces/ + masks/ says itself what white means; no other does."""
    if (root.parent / "kept_faces").is_dir():
        return "visible"
    raise click.UsageError(
        "--polarity visible|occluded: say whether the marked pixels of the masks are the visible "
        "or the occluded part of the face"
    )


def _name_unused(finder: MaskFinder, taken: set[str]) -> None:
    count = 0
    examples: list[str] = []
    for path in finder.walk():
        if str(path) not in taken:
            count += 1
            if len(examples) < 3:
                examples.append(str(path))
    if count:
        more = ", …" if count > 3 else ""
        say(f"Note: {count} masks belong to no cached face ({', '.join(examples)}{more})")
