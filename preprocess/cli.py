"""`prep`: fill a cache."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from faceguide import __version__
from faceguide.cache import manifest
from faceguide.cache.console import Group, SomeFailed, echo_json, printable, say
from faceguide.cache.files import read_json, replacing
from faceguide.cache.plan import Plan, Row, make_plan
from faceguide.cache.schema import ORIGINS
from faceguide.cache.shard import sidecar_path
from faceguide.preprocess import dry_run as rehearsal
from faceguide.preprocess import guidance_shards, landmark_text, landmarks, masks, parallel
from faceguide.preprocess.guidance import GuidanceSettings, load_points
from faceguide.preprocess.mask_files import MaskFinder, MaskSettings, parse_class
from faceguide.preprocess.sources import Source, open_source

EXISTING = click.Path(exists=True, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group(cls=Group)
@click.version_option(__version__, prog_name="faceguide")
def main() -> None:
    """Fill a cache: find and align faces, render their guidance, warp their masks.

    \b
    Example:
      prep landmarks photos/ --out cache/
      prep masks masks/ --cache cache/ --polarity visible
    """


def job_options(command: Any) -> Any:
    """Options of every command that works shard by shard."""
    for option in reversed(
        [
            click.option("--jobs", type=click.IntRange(1), help="Processes.  [default: all cores]"),
            click.option("--part", metavar="i/N", help="Do only part i of N, i from 0 to N−1."),
            click.option(
                "--allow-failures", is_flag=True, help="Exit 0 although some images failed."
            ),
            click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
        ]
    ):
        command = option(command)
    return command


def guidance_options(command: Any) -> Any:
    """How heatmaps and regions are drawn."""
    for option in reversed(
        [
            click.option(
                "--grid", type=click.IntRange(1, 1024), default=28, show_default=True,
                help="Cells on a side of heatmaps and region masks.",
            ),
            click.option(
                "--regions", type=click.Choice(["hull", "points"]), default="hull",
                show_default=True,
                help="hull: filled contours of eyes, nose and mouth; points: discs at landmarks.",
            ),
            click.option(
                "--points", "points_file", type=EXISTING,
                help="JSON file of landmark indices, radius and sigmas instead of ours.",
            ),
        ]
    ):  # fmt: skip
        command = option(command)
    return command


@main.command("landmarks")
@click.argument("source", type=EXISTING)
@click.option("--out", "directory", type=click.Path(path_type=Path), required=True, help="Cache.")
@click.option("--flat", is_flag=True, help="Nested folders do not name identities.")
@click.option(
    "--align",
    type=click.Choice(["arcface", "none"]),
    default="arcface",
    show_default=True,
    help="Five-point alignment, or none for images that are aligned already.",
)
@click.option(
    "--size",
    type=click.IntRange(16, 1024),
    default=112,
    show_default=True,
    help="Side of the crop in pixels.",
)
@click.option(
    "--margin",
    type=click.FloatRange(0, 2),
    default=0.0,
    show_default=True,
    help="Show this share more on each side of the template.",
)
@click.option(
    "--store",
    type=click.Choice(["raw", "jpeg"]),
    default="raw",
    show_default=True,
    help="Pixels, or JPEG for large crops and sets beyond memory.",
)
@click.option(
    "--model",
    type=EXISTING,
    help="A face_landmarker.task file for MediaPipe's Tasks API, instead of the bundled Face Mesh.",
)
@click.option(
    "--landmarks",
    "landmark_file",
    type=EXISTING,
    help="Import these landmarks (text or CSV, 478 points in source pixels); detect nothing.",
)
@click.option(
    "--face",
    "choose",
    type=click.Choice(["largest", "center"]),
    default="largest",
    show_default=True,
    help="Which of several faces in an image counts.",
)
@click.option("--check-all", is_flag=True, help="Measure the quality of every face: one more pass.")
@guidance_options
@click.option("--limit", type=click.IntRange(1), help="Draw N images at random.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the order of the rows.")
@click.option("--shard-rows", type=click.IntRange(1), help="Rows per shard.  [default: by size]")
@click.option("--dry-run", is_flag=True, help="Count, estimate and name every problem; no cache.")
@click.option("--overwrite", is_flag=True, help="Start over: remove the cache that is there first.")
@job_options
def landmarks_command(
    source: Path,
    directory: Path,
    flat: bool,
    align: Any,
    size: int,
    margin: float,
    store: Any,
    model: Path | None,
    landmark_file: Path | None,
    choose: Any,
    check_all: bool,
    grid: int,
    regions: Any,
    points_file: Path | None,
    limit: int | None,
    seed: int,
    shard_rows: int | None,
    dry_run: bool,
    overwrite: bool,
    jobs: int | None,
    part: str | None,
    allow_failures: bool,
    as_json: bool,
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
    settings = landmarks.FaceSettings(
        source=source,
        flat=flat,
        align=align,
        size=size,
        margin=margin,
        store=store,
        model=model,
        landmarks=landmark_file,
        landmark_index=directory / "landmarks.index" if landmark_file else None,
        choose=choose,
        check_all=check_all,
    )
    guidance = GuidanceSettings(regions=regions, grid=grid, table=load_points(points_file))
    opened = open_source(source, flat=flat)
    if dry_run:
        echo = rehearsal.rehearse(opened, settings, limit, jobs or parallel.usable_cores())
        echo_json(echo) if as_json else click.echo(rehearsal.describe(echo))
        return
    if overwrite:
        manifest.start_over(directory)
    recipe = landmarks.faces_recipe(settings, opened)
    with tqdm(unit=" images", desc="listing", disable=None) as bar:
        plan = make_plan(
            directory,
            lambda: _rows(opened),
            recipe=recipe,
            meta=opened.columns,
            seed=seed,
            limit=limit,
            shard_rows=shard_rows,
            row_bytes=settings.row_bytes(),
            progress=bar.update,
        )
    for problem in opened.problems():
        say(f"Note: {problem}")
    if settings.landmark_index is not None and not settings.landmark_index.exists():
        assert landmark_file is not None
        with replacing(settings.landmark_index) as temporary:
            landmark_text.index_file(landmark_file, temporary)
    manifest.set_recipe(directory, plan, "guidance", guidance.recipe(), replace=False)
    guidance_recipe = manifest.group_recipe(directory, plan, "guidance")
    assert guidance_recipe is not None
    work = functools.partial(
        _faces_and_guidance, directory, plan, settings, guidance_recipe, guidance
    )
    mine = _part(directory, plan, ("faces", "guidance"), jobs, part)
    mine.run(work)
    mine.finish(started, allow_failures, as_json)


def _rows(source: Source) -> Iterator[Row]:
    for row in source.rows():
        yield Row(row.key, row.identity, row.at, tuple(row.meta[name] for name in source.columns))


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
@job_options
def guidance_command(
    directory: Path,
    grid: int,
    regions: Any,
    points_file: Path | None,
    jobs: int | None,
    part: str | None,
    allow_failures: bool,
    as_json: bool,
) -> None:
    """Render heatmaps and region masks again with other settings; nothing is detected.

    \b
    Example:
      prep guidance --cache cache/ --regions points --grid 56
    """
    started = time.monotonic()
    plan = manifest.require_plan(directory)
    settings = GuidanceSettings(regions=regions, grid=grid, table=load_points(points_file))
    manifest.set_recipe(directory, plan, "guidance", settings.recipe(), replace=True)
    recipe = manifest.group_recipe(directory, plan, "guidance")
    assert recipe is not None
    work = functools.partial(guidance_shards.make_guidance, directory, plan, recipe, settings)
    mine = _part(directory, plan, ("guidance",), jobs, part)
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
    jobs: int | None,
    part: str | None,
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
    work = functools.partial(masks.make_occlusion, directory, plan, recipe, settings, shared)
    mine = _part(directory, plan, ("occlusion",), jobs, part)
    whole, used = mine.run(work)
    if finder is not None and whole:
        _name_unused(finder, {path for paths in used for path in paths})
    mine.finish(started, allow_failures, as_json)


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


@dataclass(frozen=True)
class _Work:
    """The shards of one part of a command.

    Attributes:
        directory: the cache.
        plan: its plan.
        groups: what the command makes, the one that is reported first.
        mine: shards of this part.
        jobs: processes; None for all cores.
    """

    directory: Path
    plan: Plan
    groups: tuple[str, ...]
    mine: list[int]
    jobs: int | None

    def run(self, work: Any) -> tuple[bool, list[Any]]:
        """Run the unfinished shards; (whether that was the whole cache, results)."""
        missing: set[int] = set()
        for group in self.groups:
            recipe = manifest.group_recipe(self.directory, self.plan, group)
            assert recipe is not None
            missing.update(manifest.missing_shards(self.directory, group, recipe, self.mine))
        done = sum(self.plan.rows_of(shard) for shard in self.mine if shard not in missing)
        results = parallel.run(
            work,
            sorted(missing),
            jobs=self.jobs or parallel.usable_cores(),
            total=sum(map(self.plan.rows_of, self.mine)),
            unit=" faces",
            done=done,
        )
        collected = list(results)
        return len(missing) == self.plan.shards, collected

    def finish(self, started: float, allow_failures: bool, as_json: bool) -> None:
        """Seal what is complete, say what came of this part, and settle the exit code."""
        sealed = [
            manifest.seal_if_complete(self.directory, group, self.plan) for group in self.groups
        ]
        status: Counter[str] = Counter()
        origin: Counter[str] = Counter()
        for shard in self.mine:
            sidecar = read_json(sidecar_path(self.directory, self.groups[0], shard))
            status.update(sidecar["status"])
            origin.update(sidecar.get("origin", {}))
        failures = sum(n for name, n in status.items() if name not in ("ok", "unknown"))
        images = sum(status.values())
        if as_json:
            echo_json(
                {
                    "images": images,
                    "rows": self.plan.rows,
                    "shards": self.plan.shards,
                    "failures": failures,
                    "seconds": round(time.monotonic() - started, 3),
                    "complete": all(sealed),
                    "origins": {name: origin.get(name, 0) for name in ORIGINS},
                    "status": dict(status),
                }
            )
        else:
            origins = ", ".join(f"{origin[name]} {name}" for name in ORIGINS if origin.get(name))
            states = ", ".join(f"{count} {name}" for name, count in status.most_common())
            click.echo(
                f"{printable(self.directory)}: {images} of {self.plan.rows} rows "
                f"in {len(self.mine)} of {self.plan.shards} shards: {states}"
            )
            if origins:
                click.echo(f"landmarks: {origins}")
            if not all(sealed):
                click.echo("not sealed yet: other parts are missing")
        if failures and not allow_failures:
            raise SomeFailed(
                f"{failures} of {images} images failed; "
                f"`cache failures {self.directory}` lists them"
            )


def _part(
    directory: Path, plan: Plan, groups: tuple[str, ...], jobs: int | None, part: str | None
) -> _Work:
    index, parts = parallel.parse_part(part) if part else (0, 1)
    return _Work(directory, plan, groups, list(range(index, plan.shards, parts)), jobs)
