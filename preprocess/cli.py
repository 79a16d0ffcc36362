"""`prep`: fill a cache."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

import click

from faceguide import __version__
from faceguide.cache import manifest
from faceguide.cache.console import Group, echo_json, printable, say
from faceguide.cache.plan import Plan
from faceguide.preprocess import dry_run as rehearsal
from faceguide.preprocess import guidance_shards, landmarks, masks, parallel
from faceguide.preprocess.guidance import GuidanceSettings, load_points
from faceguide.preprocess.mask_files import MaskFinder, MaskSettings, parse_class
from faceguide.preprocess.options import (
    EXISTING,
    FOLDER,
    face_options,
    guidance_options,
    job_options,
    prepare_option,
)
from faceguide.preprocess.planning import face_plan, settle
from faceguide.preprocess.submit import submit_command
from faceguide.preprocess.work import Work, where


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
@face_options
@click.option("--dry-run", is_flag=True, help="Count, estimate and name every problem; no cache.")
@job_options
def landmarks_command(
    dry_run: bool,
    overwrite: bool,
    jobs: int | None,
    part: str | None,
    dask: str | None,
    allow_failures: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Find the face in every image of SOURCE, align it and cache it with its guidance.

    SOURCE is a folder of identities (person/photo.jpg), with --flat any folder of images, a CSV
    file (columns path, identity, others are kept), an insightface train.rec or a .bin file.
    Running the same command again goes on where it stopped.

    \b
    Examples:
      prep landmarks photos/ --out cache/
      prep landmarks faces_emore/train.rec --out cache/ --align none --jobs 16
      prep landmarks list.csv --out cache448/ --size 448 --margin 0.07 --store jpeg
    """
    started = time.monotonic()
    wanted = face_plan(**options)
    here = where(jobs, part, dask)
    if dry_run:
        echo = rehearsal.rehearse(wanted.source, wanted.settings, wanted.limit, here.jobs)
        echo_json(echo) if as_json else click.echo(rehearsal.describe(echo))
        return
    if overwrite:
        if here.part != (0, 1):
            raise click.UsageError(
                "--overwrite would remove what other parts made; run `prep plan … --overwrite` "
                "once, then the parts without it"
            )
        manifest.start_over(wanted.directory)
    plan, guidance_recipe = settle(wanted)
    work = functools.partial(
        _faces_and_guidance, wanted.directory, plan, wanted.settings, guidance_recipe,
        wanted.guidance,
    )  # fmt: skip
    mine = Work(wanted.directory, plan, ("faces", "guidance"), here)
    mine.run(work)
    mine.finish(started, allow_failures, as_json)


@main.command("plan")
@face_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def plan_command(overwrite: bool, as_json: bool, **options: Any) -> None:
    """List SOURCE and settle which image goes where; open none.

    `prep landmarks` plans by itself. Before many parts start together, one plan saves each of
    them from listing SOURCE.

    \b
    Example:
      prep plan photos/ --out cache/
      prep landmarks photos/ --out cache/ --part 0/4
    """
    wanted = face_plan(**options)
    if overwrite:
        manifest.start_over(wanted.directory)
    plan, _ = settle(wanted)
    if as_json:
        echo_json({"rows": plan.rows, "shards": plan.shards, "identities": plan.identities})
    else:
        click.echo(
            f"{printable(wanted.directory)}: {plan.rows} rows of {plan.identities} identities "
            f"planned in {plan.shards} shards"
        )


def _faces_and_guidance(
    directory: Path,
    plan: Plan,
    settings: landmarks.FaceSettings,
    recipe: dict[str, Any],
    guidance: GuidanceSettings,
    shard: int,
    tick: parallel.Tick,
) -> None:
    landmarks.make_faces(directory, plan, settings, shard, tick)
    guidance_shards.make_guidance(directory, plan, recipe, guidance, shard, lambda: None)


@main.command("guidance")
@click.option("--cache", "directory", type=FOLDER, required=True, help="Cache to render again.")
@guidance_options
@prepare_option
@job_options
def guidance_command(
    directory: Path,
    grid: int,
    regions: Any,
    points_file: Path | None,
    prepare: bool,
    jobs: int | None,
    part: str | None,
    dask: str | None,
    allow_failures: bool,
    as_json: bool,
) -> None:
    """Render heatmaps and region masks again with other settings; nothing is detected.

    \b
    Example:
      prep guidance --cache cache/ --regions points --grid 56
    """
    started = time.monotonic()
    here = where(jobs, part, dask)
    directory = directory.absolute()
    plan = manifest.require_plan(directory)
    settings = GuidanceSettings(regions=regions, grid=grid, table=load_points(points_file))
    manifest.set_recipe(directory, plan, "guidance", settings.recipe(), replace=True)
    recipe = manifest.group_recipe(directory, plan, "guidance")
    assert recipe is not None
    if prepare:
        return
    work = functools.partial(guidance_shards.make_guidance, directory, plan, recipe, settings)
    mine = Work(directory, plan, ("guidance",), here)
    mine.run(work)
    mine.finish(started, allow_failures, as_json)


@main.command("masks")
@click.argument("root", metavar="[MASKS]", type=FOLDER, required=False)
@click.option("--cache", "directory", type=FOLDER, required=True, help="Cache of the faces.")
@click.option(
    "--polarity",
    type=click.Choice(["visible", "occluded"]),
    help="What a marked (white, opaque or --class) pixel is. kept_faces/ beside masks/ with "
    "NAME_mask.png means visible; every other layout must say.",
)
@click.option(
    "--class",
    "classes",
    multiple=True,
    metavar="ID|R,G,B",
    help="Class ids or colours of marked pixels; may be repeated.",
)
@click.option("--table", type=EXISTING, help="CSV with columns image (row key) and mask.")
@click.option(
    "--clean",
    multiple=True,
    metavar="FOLDER",
    help="Folder below SOURCE (. for all) whose faces are fully visible; may be repeated.",
)
@click.option(
    "--grid",
    type=click.Choice(["7", "14"]),
    default="7",
    show_default=True,
    help="Cells on a side of a visibility map.",
)
@click.option("--overwrite", is_flag=True, help="Replace visibility made with other settings.")
@prepare_option
@job_options
def masks_command(
    root: Path | None,
    directory: Path,
    polarity: Any,
    classes: tuple[str, ...],
    table: Path | None,
    clean: tuple[str, ...],
    grid: str,
    overwrite: bool,
    prepare: bool,
    jobs: int | None,
    part: str | None,
    dask: str | None,
    allow_failures: bool,
    as_json: bool,
) -> None:
    """Match mask files to cached faces and keep the visible share of each cell.

    A mask is found by the image's stem, in the same tree or in one folder, with or without
    _mask or _gt behind it. Faces without a mask keep an unknown visibility.

    \b
    Examples:
      prep masks masks/ --cache cache/ --polarity visible --clean clean_faces
      prep masks gt/ --cache cache/ --class 0,128,0 --polarity occluded
      prep masks --cache cache/ --clean .
    """
    started = time.monotonic()
    if root is None and not clean:
        raise click.UsageError("give a folder of masks, or --clean for faces that nothing covers")
    here = where(jobs, part, dask)
    directory = directory.absolute()
    root = root.absolute() if root else None
    table = table.absolute() if table else None
    plan = manifest.require_plan(directory)
    if root is not None and polarity is None:
        polarity = _known_polarity(root)
    settings = masks.OcclusionSettings(
        root=root,
        table=table,
        masks=MaskSettings(polarity, tuple(parse_class(text) for text in classes))
        if root
        else None,
        clean=clean,
        grid=int(grid),
    )
    finder = MaskFinder(root, table) if root else None  # a table that is no good is refused here
    manifest.set_recipe(directory, plan, "occlusion", settings.recipe(), replace=overwrite)
    recipe = manifest.group_recipe(directory, plan, "occlusion")
    assert recipe is not None
    shared = (
        masks.find_shared_stems(directory, plan) if root and table is None else frozenset[int]()
    )
    if prepare:
        return
    work = functools.partial(masks.make_occlusion, directory, plan, recipe, settings, shared)
    mine = Work(directory, plan, ("occlusion",), here)
    whole, used = mine.run(work)
    if finder is not None and whole:
        _name_unused(finder, {path for paths in used for path in paths})
    mine.finish(started, allow_failures, as_json)


@main.group("submit", cls=Group)
def submit_group() -> None:
    """Run a command as a Slurm array (needs the extra `cluster`).

    \b
    Example:
      prep submit landmarks photos/ --out cache/ --parts 64 --cpus 8 --time 2:00:00
      prep submit masks masks/ --cache cache/ --polarity visible --print
    """


for _command in (landmarks_command, masks_command, guidance_command):
    submit_group.add_command(submit_command(_command))


@main.command("demo-photos")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--identities", type=click.IntRange(2, 40), default=12, show_default=True)
@click.option("--images", type=click.IntRange(2, 100), default=16, show_default=True, help="Each.")
@click.option("--seed", type=int, default=0, show_default=True)
def demo_photos_command(folder: Path, identities: int, images: int, seed: int) -> None:
    """Draw a small labelled photo set, some faces veiled with exact masks, to try things on.

    All pictures are warps of one public-domain portrait: good for trying commands, no measure
    of accuracy.

    \b
    Example:
      prep demo-photos demo/set
    """
    from faceguide.preprocess.demo_photos import write_demo_photos

    write_demo_photos(folder, identities=identities, images=images, seed=seed)
    click.echo(f"{printable(folder)}: {identities * images} photographs of {identities} identities")


def _known_polarity(root: Path) -> str:
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
