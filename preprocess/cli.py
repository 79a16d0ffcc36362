"""`prep`: fill a cache."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

import click

from faceguide import __version__
from faceguide.cache import manifest
from faceguide.cache.plan import Plan
from faceguide.core.commands.console import Group, echo_json, printable
from faceguide.core.commands.doubts import Doubts
from faceguide.core.commands.parts import WHOLE
from faceguide.core.commands.settings import settings
from faceguide.core.commands.shared_options import FOLDER, Output
from faceguide.core.commands.slurm import Job, Request, submit_group
from faceguide.core.errors import CacheError
from faceguide.preprocess import dry_run as rehearsal
from faceguide.preprocess import face_shards, parallel
from faceguide.preprocess.face_settings import FaceSettings
from faceguide.preprocess.guidance import guidance_shards
from faceguide.preprocess.guidance.drawing import GuidanceSettings
from faceguide.preprocess.masks.mask_group import (
    CacheMaskOptions,
    LandmarkMaskOptions,
    MaskPlan,
    MaskWork,
    mask_plan,
    require_no_masks,
    settle_masks,
)
from faceguide.preprocess.models_command import models_command
from faceguide.preprocess.parallel import usable_cores
from faceguide.preprocess.planning import face_plan, settle
from faceguide.preprocess.prep_options import CacheOptions, Here, PlanOptions
from faceguide.preprocess.work import Work


@click.group(cls=Group)
@click.version_option(__version__, prog_name="faceguide")
def main() -> None:
    """Fill a cache: find and align faces, render their guidance, warp their masks.

    \b
    Example:
      prep landmarks photos/ --out cache/
      prep masks masks/ --cache cache/ --polarity visible
    """


@main.command("landmarks")
@settings(
    faces=FaceSettings,
    guidance=GuidanceSettings,
    place=PlanOptions,
    masks=LandmarkMaskOptions,
    here=Here,
)
@click.option("--dry-run", is_flag=True, help="Count, estimate and name every problem; no cache.")
def landmarks_command(
    faces: FaceSettings,
    guidance: GuidanceSettings,
    place: PlanOptions,
    masks: LandmarkMaskOptions,
    here: Here,
    dry_run: bool,
) -> None:
    """Find the face in every image of SOURCE, align it and cache it with its guidance.

    SOURCE is a folder of identities (person/photo.jpg), with --flat any folder of images, a CSV
    file (columns path, identity, others are kept), an insightface train.rec, a .bin file or
    ND-TWIN's id_to_images.json. Whatever looks wrong about it is one line on stderr and counted
    under "doubts" in --json. Rerun the same command to resume. With --masks or --clean, `prep
    masks` follows once the faces are there.

    \b
    Examples:
      prep landmarks photos/ --out cache/
      prep landmarks niqab/kept_faces --flat --out veiled/ --masks niqab/masks
      prep landmarks faces_emore/train.rec --out cache/ --align none --jobs 16
      prep landmarks list.csv --out cache448/ --size 448 --margin 0.07 --store jpeg
    """
    started = time.monotonic()
    wanted = face_plan(faces, guidance, place)
    visibility = None
    if masks.mask_root is not None or masks.clean:
        visibility = mask_plan(masks.mask_root, masks, faces.source)
    elif masks.polarity or masks.classes:
        raise click.UsageError("--polarity and --class are about --masks FOLDER, which is missing")
    if dry_run:
        echo, doubts = rehearsal.rehearse(
            wanted.source, wanted.settings, place.limit, here.processes
        )
        doubts.say()
        echo_json(echo) if here.as_json else click.echo(rehearsal.describe(echo))
        return
    if place.overwrite:
        if here.part != WHOLE:
            raise click.UsageError(
                "--overwrite would remove what other parts made; run `prep plan … --overwrite` "
                "once, then the parts without it"
            )
        manifest.start_over(wanted.directory)
    plan, guidance_recipe = settle(wanted, here.processes)
    # Before hours of detection: masks of other settings are refused here.
    covers = visibility and _settled(wanted.directory, plan, visibility, here.processes)
    work = functools.partial(
        _faces_and_guidance, wanted.directory, plan, wanted.settings, guidance_recipe,
        wanted.guidance,
    )  # fmt: skip
    mine = Work(wanted.directory, plan, ("faces", "guidance"), here)
    mine.run(work)
    if not covers:
        mine.finish(started)
        return
    found, begun = mine.close(started), time.monotonic()
    theirs = covers.run(here)
    seen = theirs.close(begun)
    if here.as_json:
        echo_json({**found, "masks": seen, "doubts": {**found["doubts"], **seen["doubts"]}})
    else:
        click.echo(f"{mine.describe(found)}\nmasks: {theirs.describe(seen)}")
    mine.require_none_failed(found["failures"] + seen["failures"], found["images"])


def _settled(directory: Path, plan: Plan, visibility: MaskPlan, jobs: int) -> MaskWork:
    try:
        return settle_masks(directory, plan, visibility, replace=False, jobs=jobs)
    except CacheError as error:  # --overwrite of this command would remove the faces as well
        raise CacheError(f"{error}; `prep masks … --overwrite` rebuilds only the masks") from None


@main.command("plan")
@settings(faces=FaceSettings, guidance=GuidanceSettings, place=PlanOptions, output=Output)
def plan_command(
    faces: FaceSettings, guidance: GuidanceSettings, place: PlanOptions, output: Output
) -> None:
    """List SOURCE and decide which image goes where, without opening any.

    `prep landmarks` plans by itself. Plan once before many parts start together, so that each
    need not list SOURCE.

    \b
    Example:
      prep plan photos/ --out cache/
      prep landmarks photos/ --out cache/ --part 0/4
    """
    wanted = face_plan(faces, guidance, place)
    if place.overwrite:
        manifest.start_over(wanted.directory)
    plan, _ = settle(wanted, usable_cores())
    if output.as_json:
        doubts = Doubts.kept_of(wanted.directory, ("faces",)).counts()
        counts = {"rows": plan.rows, "shards": plan.shards, "identities": plan.identities}
        echo_json({**counts, "doubts": doubts})
    else:
        click.echo(
            f"{printable(wanted.directory)}: {plan.rows} rows of {plan.identities} identities "
            f"planned in {plan.shards} shards"
        )


def _faces_and_guidance(
    directory: Path,
    plan: Plan,
    settings: FaceSettings,
    recipe: dict[str, Any],
    guidance: GuidanceSettings,
    shard: int,
    tick: parallel.Tick,
) -> None:
    face_shards.make_faces(directory, plan, settings, shard, tick)
    guidance_shards.make_guidance(directory, plan, recipe, guidance, shard, lambda: None)


@main.command("guidance")
@settings(place=CacheOptions, guidance=GuidanceSettings, here=Here)
def guidance_command(place: CacheOptions, guidance: GuidanceSettings, here: Here) -> None:
    """Re-render heatmaps and region masks with other settings, without detection.

    --points FILE has the fields of the built-in table: lists of landmark indices (0 to 477 of
    MediaPipe's face mesh), radius and sigmas in pixels of a crop of 448 whatever the cache's
    size. "points" and "radius" are the discs of --regions points, "hull" the contours of
    --regions hull, "heatmap" counts with both.

    \b
    Examples:
      prep guidance --cache cache/ --regions points --grid 56
      prep guidance --cache cache/ --regions points --points mine.json

    \b
    mine.json, shortened:
      {"points": {"eyes": [33, 133], "nose": [1, 4], "mouth": [61, 291]},
       "radius": 20,
       "heatmap": {"eyes": {"points": [33, 133], "sigma": 8}},
       "hull": {"eyes": [{"ring": [33, 159, 133, 145]}], "nose": [{"convex": [1, 98, 327]}],
                "mouth": [{"ring": [61, 0, 291, 17]}]}}
    """
    started = time.monotonic()
    directory = place.directory.absolute()
    plan = manifest.require_plan(directory)
    guidance.say_unused()
    manifest.set_recipe(directory, plan, "guidance", guidance.recipe(), replace=True)
    recipe = manifest.group_recipe(directory, plan, "guidance")
    assert recipe is not None
    if place.prepare:
        return
    work = functools.partial(guidance_shards.make_guidance, directory, plan, recipe, guidance)
    mine = Work(directory, plan, ("guidance",), here)
    mine.run(work)
    mine.finish(started)


@main.command("masks")
@click.argument("root", metavar="[MASKS]", type=FOLDER, required=False)
@settings(place=CacheOptions, masks=CacheMaskOptions, here=Here)
def masks_command(
    root: Path | None, place: CacheOptions, masks: CacheMaskOptions, here: Here
) -> None:
    """Match mask files to cached faces and keep the visible share of each cell.

    A mask is found by the image's stem, in the same tree or in one folder, with or without
    _mask or _gt behind it. Faces without a mask keep an unknown visibility, which --estimate fills
    in afterwards: these rows are known from then on, and marked in the column `estimated`.

    \b
    Examples:
      prep masks masks/ --cache cache/ --polarity visible --clean clean_faces
      prep masks gt/ --cache cache/ --class 0,128,0 --polarity occluded
      prep masks --cache cache/ --clean .
      prep masks --cache cache/ --estimate run/
    """
    started = time.monotonic()
    directory = place.directory.absolute()
    if masks.estimate is not None:
        from faceguide.preprocess.masks.mask_estimates import settle_estimate

        require_no_masks(root, masks)
        plan = manifest.require_plan(directory)
        estimates = settle_estimate(directory, plan, masks.estimate.absolute())
        if not place.prepare:
            estimates.run(here).finish(started)
        return
    wanted = mask_plan(root, masks)
    plan = manifest.require_plan(directory)
    if masks.overwrite and here.part != WHOLE and not place.prepare:
        raise click.UsageError(
            "--overwrite would remove what other parts made; run `prep masks … --prepare "
            "--overwrite` once, then the parts without it"
        )
    covers = settle_masks(directory, plan, wanted, replace=masks.overwrite, jobs=here.processes)
    if place.prepare:
        return
    covers.run(here).finish(started)


_SEALED = {"landmarks": ("faces", "guidance"), "guidance": ("guidance",), "masks": ("occlusion",)}


def _jobs(request: Request) -> dict[str, Job]:
    """What all parts share → an array of the parts → the seal, which exits with 1 if some miss."""
    name, groups, first = request.name, _SEALED[request.name], request.words("--prepare")
    if name == "landmarks":
        without = ("--masks", "--polarity", "--class", "--clean")
        first = ("prep", "plan", *request.words(without=without)[2:])
        groups += ("occlusion",) * bool(request.typed.keys() & {"--masks", "--clean"})
    # Only the first job starts over: the parts must not remove what the others made.
    further = (f"--jobs={request.limits.cpus}", "--allow-failures")
    part = request.words(*further, without=("--overwrite",))
    ends = (f"--parts={request.limits.parts}", str(request.results))
    seal = ("cache", "seal", *(f"--group={group}" for group in groups), *ends)
    return {
        "prepare": Job(f"prep-{name}-prepare", first),
        "parts": Job(f"prep-{name}", part, "array"),
        "seal": Job(f"prep-{name}-seal", seal, after="any"),
    }


main.add_command(models_command)
main.add_command(
    submit_group(
        "prep",
        main.commands.values(),
        "Make the shards as a Slurm array, then seal the cache or name the missing parts.",
        _jobs,
    )
)
