"""Masks of a cache as `prep masks` and `prep landmarks --masks` make them: settled, then made."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click

from faceguide.cache import manifest
from faceguide.cache.plan import Plan
from faceguide.cache.shard import sidecar_path
from faceguide.core.commands.console import say
from faceguide.core.commands.doubts import Doubts
from faceguide.core.commands.settings import option
from faceguide.core.commands.shared_options import EXISTING, FOLDER
from faceguide.core.files import read_json
from faceguide.preprocess.masks import mask_match, mask_shards
from faceguide.preprocess.masks.mask_files import MaskSettings, parse_class
from faceguide.preprocess.masks.mask_finder import MaskFinder
from faceguide.preprocess.masks.mask_values import MaskError
from faceguide.preprocess.prep_options import Here, Overwrite
from faceguide.preprocess.work import Work


@dataclass(frozen=True)
class MaskPlan:
    """What is asked for, checked.

    Attributes:
        against_layout: they are read in another sense than their layout has.
    """

    settings: mask_shards.OcclusionSettings
    against_layout: bool


@dataclass(frozen=True, kw_only=True)
class MaskOptions:
    """What the values of masks mean, and which faces need none.

    Attributes:
        polarity: None = what the layout says.
    """

    polarity: Literal["visible", "occluded"] | None = option(
        None,
        "What a marked (white, opaque or --class) pixel is. kept_faces/ next to masks/ with "
        "NAME_mask.png means visible; every other layout must say.",
    )
    classes: tuple[str, ...] = option(
        (), "Class ids or colours of marked pixels; may be repeated.", "--class",
        metavar="ID|R,G,B",
    )  # fmt: skip
    clean: tuple[str, ...] = option(
        (), "Folder below SOURCE (. for all) whose faces are fully visible; may be repeated.",
        metavar="FOLDER",
    )  # fmt: skip
    table: Path | None = None
    grid: int = 7


@dataclass(frozen=True, kw_only=True)
class LandmarkMaskOptions(MaskOptions):
    """Masks that are matched once the faces are there."""

    mask_root: Path | None = option(
        None, "Also match these masks, as `prep masks` does.", "--masks", type=FOLDER
    )


@dataclass(frozen=True, kw_only=True)
class CacheMaskOptions(MaskOptions, Overwrite):
    """Masks of a cache that is there."""

    table: Path | None = option(None, "CSV with columns image (row key) and mask.", type=EXISTING)
    grid: int = option(
        7, "Cells on a side of a visibility map.", type=click.Choice(["7", "14"]),
        callback=lambda context, option, value: int(value),
    )  # fmt: skip
    estimate: Path | None = option(
        None,
        "Fill in the faces without a mask with what the occlusion head of this training run sees; "
        "after the masks, by itself.",
        type=FOLDER, metavar="RUN",
    )  # fmt: skip


def require_no_masks(root: Path | None, wanted: CacheMaskOptions) -> None:
    """Estimates come after the masks, which they leave as they are.

    Raises:
        click.UsageError: when masks, or what they mean, are given too.
    """
    if (
        root
        or wanted.table
        or wanted.polarity
        or wanted.classes
        or wanted.clean
        or wanted.overwrite
    ):
        raise click.UsageError(
            "--estimate keeps the masks of the cache and fills in the others: run `prep masks` "
            "with MASKS, --clean or --overwrite first, then with --estimate"
        )


def mask_plan(root: Path | None, wanted: MaskOptions, source: Path | None = None) -> MaskPlan:
    """The options of masks as settings.

    Args:
        root: folder of masks; None when there are only clean faces.
        source: the images' folder, where it is known.

    Raises:
        click.UsageError: when nothing, or no polarity, is known.
        MaskError: for a class or a table that cannot be understood.
    """
    polarity, table = wanted.polarity, wanted.table
    if root is None and not wanted.clean:
        raise click.UsageError("give a folder of masks, or --clean for unoccluded faces")
    if root is None and (table or polarity or wanted.classes):
        raise click.UsageError(
            "--table, --polarity and --class are about a folder of masks, MASKS, which is missing"
        )
    root = root.absolute() if root else None
    table = table.absolute() if table else None
    means_visible = root is not None and (root.parent / "kept_faces").is_dir()
    if root is not None and polarity is None:
        if not means_visible:
            raise click.UsageError(
                "--polarity visible|occluded: say whether the marked pixels of the masks are the "
                "visible or the occluded part of the face"
            )
        polarity = "visible"
    settings = mask_shards.OcclusionSettings(
        root=root,
        table=table,
        masks=MaskSettings(polarity, tuple(parse_class(text) for text in wanted.classes))
        if root and polarity
        else None,
        clean=wanted.clean,
        grid=wanted.grid,
        source=_images_folder(source),
    )
    if root is not None:
        MaskFinder(root, table)  # a table's faults are named before anything is settled
    return MaskPlan(settings, means_visible and polarity == "occluded" and not wanted.classes)


def _images_folder(source: Path | None) -> Path | None:
    """The folder that the keys of a folder's or a CSV's images begin in."""
    if source is None:
        return None
    return source.absolute() if source.is_dir() else source.absolute().parent


@dataclass(frozen=True)
class MaskWork:
    """The masks of one cache, ready to be made shard by shard.

    Attributes:
        shared: hashes of stems that several images have.
    """

    directory: Path
    plan: Plan
    wanted: MaskPlan
    recipe: dict[str, Any]
    shared: frozenset[int]

    def run(self, here: Here) -> MadeMasks:
        """Make the missing shards of a part; its faces are there.

        Raises:
            MaskError: when no mask belongs to a face; nothing of the group is left then.
        """
        settings = mask_match.without_photographs(self.directory, self.plan, self.wanted.settings)
        work = functools.partial(
            mask_shards.make_occlusion,
            self.directory,
            self.plan,
            self.recipe,
            settings,
            self.shared,
        )
        mine = MadeMasks(self.directory, self.plan, ("occlusion",), here)
        if here.part == (0, 1) and not mine.begun():
            try:
                mask_match.require_masks(self.directory, self.plan, settings)
            except MaskError:
                manifest.recipe_path(self.directory, "occlusion").unlink(missing_ok=True)
                raise
        whole, found = mine.run(work)
        if settings.root is not None and whole:
            taken = {path for paths in found for path in paths}
            for note in mask_match.name_unused(self.directory, self.plan, settings, taken):
                say(f"Note: {note}")
        self._keep_doubts(mine)
        return mine

    def _keep_doubts(self, mine: MadeMasks) -> None:
        complete, settings = mine.begun() == self.plan.shards, self.wanted.settings
        seen = mine.seen(range(self.plan.shards) if complete else mine.mine)
        doubts = Doubts()
        if 2 * seen.eyes_hidden > seen.faces:
            doubts.add("eyes_hidden", count=seen.eyes_hidden)
        loose = mask_shards.open_finder(settings, self.directory).loose if settings.table else []
        doubts.add("loose_names", next(iter(loose), ""), len(loose))
        if self.wanted.against_layout:
            doubts.add("polarity_against_layout", count=seen.faces)
        if doubts or complete:  # a part without doubts leaves those of another part
            doubts.keep(self.directory, "masks")


@dataclass(frozen=True)
class MadeMasks(Work):
    """The occlusion shards of one part, with what their masks show."""

    def begun(self) -> int:
        """How many shards of the group are there, by one listing of the directory."""
        names = (entry.name for entry in os.scandir(self.directory))
        return sum(name.startswith("occlusion-") and name.endswith(".json") for name in names)

    def seen(self, shards: Iterable[int]) -> mask_shards.Seen:
        """What the masks of some shards show."""
        total = mask_shards.Seen()
        for shard in shards:
            path = sidecar_path(self.directory, "occlusion", shard)
            try:
                total.add(mask_shards.Seen(**read_json(path).get("masks", {})))
            except TypeError as error:
                raise manifest.wrong_sidecar(path, error) from None
        return total

    def close(self, started: float) -> dict[str, Any]:
        """The counts of `Work.close`, and the mean visible share of the faces with a mask."""
        seen = self.seen(self.mine)
        share = round(seen.visible / seen.faces, 4) if seen.faces else None
        return {**super().close(started), "masked_faces": seen.faces, "visible_share": share}

    def describe(self, done: dict[str, Any]) -> str:
        """The counts of `close` in words."""
        text = super().describe(done)
        if done["masked_faces"]:
            text += (
                f"\nvisible: {done['visible_share']:.1%} of a face on average, "
                f"over {done['masked_faces']:,} faces with a mask"
            )
        return text


def settle_masks(
    directory: Path, plan: Plan, wanted: MaskPlan, *, replace: bool, jobs: int
) -> MaskWork:
    """What all parts share: the recipe, and the stems that several images have.

    Args:
        jobs: processes that may count the stems.

    Raises:
        CacheError: when masks of other settings are there and `replace` is False.
        MaskError: when no mask belongs to an image; nothing was written then.
    """
    settings = mask_match.without_photographs(directory, plan, wanted.settings)
    if replace or manifest.group_recipe(directory, plan, "occlusion") is None:
        mask_match.require_masks(directory, plan, settings)
    if replace:  # the same names may have other masks now
        manifest.start_group_over(directory, "occlusion")
    manifest.set_recipe(directory, plan, "occlusion", settings.recipe(), replace=False)
    recipe = manifest.group_recipe(directory, plan, "occlusion")
    assert recipe is not None
    by_stem = settings.root is not None and settings.table is None
    shared = frozenset[int]()
    if by_stem:
        shared = mask_shards.find_shared_stems(directory, plan, jobs)
    wanted = dataclasses.replace(wanted, settings=settings)
    return MaskWork(directory, plan, wanted, recipe, shared)
