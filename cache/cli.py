"""`cache`: look at a cache, check it, seal it, take things out of it."""

from __future__ import annotations

import csv
import sys
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from tqdm import tqdm

from faceguide import __version__
from faceguide.cache import manifest
from faceguide.cache.inspect.export import export_landmarks
from faceguide.cache.inspect.info import damaged_shards, describe, summary
from faceguide.cache.inspect.occlusion_measures import MEASURES, export_occlusion, mean_measures
from faceguide.cache.inspect.verify import verify
from faceguide.cache.reader import FaceCache
from faceguide.cache.remote.copy_command import copy_command
from faceguide.cache.schema import GROUPS, ORIGINS, STATUSES
from faceguide.cache.volumes.shared_keys import shared_keys
from faceguide.cache.volumes.volume_list import listed_volumes, write_volumes
from faceguide.core.commands.console import SOME_FAILED, Group, echo_json, printable, say
from faceguide.core.commands.doubts import Doubts
from faceguide.core.commands.parts import show_indices
from faceguide.core.commands.settings import settings
from faceguide.core.commands.shared_options import (
    CACHES,
    FOLDER,
    OUT_FILE,
    MissingParts,
    Output,
    Seed,
)
from faceguide.core.errors import CacheError
from faceguide.core.files import replacing


@click.group(cls=Group)
@click.version_option(__version__, prog_name="faceguide")
def main() -> None:
    """Inspect, verify, seal and export a cache.

    \b
    Example:
      cache info cache/
      cache preview cache/ --out preview.png
    """


@main.command("volumes")
@click.argument("directories", metavar="CACHE CACHE…", nargs=-1, type=FOLDER, required=True)
@click.option("--out", type=OUT_FILE, required=True, help="File to write.")
@click.option(
    "--prefix-identities",
    is_flag=True,
    help="Equal names in two caches are two identities: VOLUME:NAME.",
)
@settings(output=Output)
def volumes_command(
    directories: tuple[Path, ...], out: Path, prefix_identities: bool, output: Output
) -> None:
    """List caches that are opened as one: every command takes the file in place of CACHE.

    Rows follow cache after cache, and identities are joined by name. The caches must have been made
    alike. A list of pairs that means a key of two caches writes VOLUME:KEY. Without a file, a
    command takes CACHE,CACHE.

    \b
    Examples:
      cache volumes 2025/ 2026/ --out volumes.json
      cache info volumes.json
      cache info 2025/,2026/
    """
    listed = replace(listed_volumes(directories), prefixed=prefix_identities)
    cache = FaceCache(listed)
    doubts = shared_keys(cache)
    write_volumes(out, listed)
    names = sum(volume.plan.identities for volume in cache.volumes)
    found = {
        "volumes": list(cache.names), "rows": len(cache), "identities": len(cache.identities),
        "joined_identities": names - len(cache.identities), "doubts": doubts.counts(),
    }  # fmt: skip
    doubts.say()
    if output.as_json:
        echo_json(found)
        return
    click.echo(
        f"{printable(out)}: {len(cache.names)} caches, {len(cache)} rows of "
        f"{len(cache.identities)} identities; {found['joined_identities']} names were joined"
    )


@main.command("info")
@click.argument("cache", type=CACHES)
@click.option(
    "--occlusion", is_flag=True,
    help="Also measure the visible share of eyes, mouth and face, 0 to 100; reads visibility and "
    "landmarks.",
)  # fmt: skip
@settings(output=Output)
@click.pass_context
def info_command(context: click.Context, cache: Path, occlusion: bool, output: Output) -> None:
    """Rows, groups, sizes and counts; exit 3 when a shard is missing or not what was written.

    `cache verify` reads every byte, this reads little.

    \b
    Examples:
      cache info cache/
      cache info cache/ --occlusion
    """
    listed, doubts = listed_volumes(cache), Doubts()
    every = [summary(directory) for directory in listed.directories]
    for found, directory in zip(every, listed.directories, strict=True):
        damaged = damaged_shards(directory)
        found["doubts"] |= damaged.counts()
        doubts.update(damaged)
    if len(every) == 1:
        together = every[0]
    else:
        opened = FaceCache(listed)
        together = {
            "rows": len(opened), "identities": len(opened.identities),
            "volumes": dict(zip(listed.names, every, strict=True)), "doubts": doubts.counts(),
        }  # fmt: skip
    measures = mean_measures(FaceCache(listed)) if occlusion else {}
    if occlusion:
        together["occlusion"] = measures
    if output.as_json:
        echo_json(together)
    else:
        click.echo("\n".join(map(describe, every)))
        for kind, means in measures.items():
            shown = ", ".join(f"{name.replace('_', ' ')} {means[name]:.1f}" for name in MEASURES)
            click.echo(f"{kind} of {means['faces']:,} faces, on average: {shown}")
        if len(every) > 1:
            click.echo(
                f"together: {together['rows']:,} rows of {together['identities']:,} identities"
            )
    doubts.say()
    if doubts:
        context.exit(SOME_FAILED)


@main.command("verify")
@click.argument("cache", type=CACHES)
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True, help="Threads.")
@settings(output=Output)
@click.pass_context
def verify_command(context: click.Context, cache: Path, jobs: int, output: Output) -> None:
    """Check every checksum and every invariant; exit 1 when something is wrong.

    \b
    Example:
      cache verify cache/
    """
    directories = listed_volumes(cache).directories
    plans = [manifest.require_plan(directory) for directory in directories]
    rows, shards = sum(plan.rows for plan in plans), sum(plan.shards for plan in plans)
    problems: list[str] = []
    notes: list[str] = []
    with tqdm(total=shards * len(GROUPS), unit=" shards", disable=None) as bar:
        for directory in directories:
            wrong, harmless = verify(directory, jobs=jobs, progress=bar.update)
            problems += wrong
            notes += harmless
    if len(directories) > 1 and not problems:
        try:
            FaceCache.open(cache)
        except CacheError as error:  # not made alike
            problems.append(str(error))
    if output.as_json:
        echo_json({"problems": problems, "notes": notes})
    else:
        for line in [*problems, *notes]:
            click.echo(printable(line))
        click.echo(f"{len(problems)} problems in {rows} rows and {shards} shards")
    if problems:
        context.exit(1)


@main.command("seal")
@click.argument("directory", type=FOLDER)
@click.option(
    "--group",
    "groups",
    type=click.Choice(GROUPS),
    multiple=True,
    help="Only this group; may be repeated.  [default: all that were begun]",
)
@settings(missing=MissingParts)
@click.option(
    "--clean", is_flag=True, help="Remove what killed writers left; only when nothing is writing."
)
def seal_command(
    directory: Path, groups: tuple[str, ...], missing: MissingParts, clean: bool
) -> None:
    """Gather the shards' sidecars into manifests; prep does it itself when all shards are there.

    \b
    Examples:
      cache seal cache/ --clean
      cache seal cache/ --parts 64
    """
    if clean:
        for path in manifest.clean(directory):
            say(f"removed {path}")
    plan = manifest.require_plan(directory)
    begun = [g for g in GROUPS if manifest.group_recipe(directory, plan, g) is not None]
    chosen = list(groups) or begun
    parts = missing.parts
    if parts is not None and (lacking := manifest.missing_parts(directory, chosen, parts)):
        raise CacheError(
            f"{directory}: {len(lacking)} of {parts} parts are not finished; rerun them: "
            f"--part i/{parts}, or prep submit with --parts {parts} "
            f"--indices {show_indices(lacking)}"
        )
    for group in chosen:
        sealed = manifest.seal(directory, group)
        click.echo(f"{group}: {sealed['rows']} rows in {len(sealed['shards'])} shards")


@main.command("failures")
@click.argument("cache", type=CACHES)
def failures_command(cache: Path) -> None:
    """List every row that failed as CSV: group, row, key, status, reason.

    Of several caches, the row is that of their union and the key VOLUME:KEY.

    \b
    Example:
      cache failures cache/ > failures.csv
    """
    names = ["group", "row", "key", "status", "reason"]
    writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
    writer.writeheader()
    listed, first = listed_volumes(cache), 0
    for volume, directory in zip(listed.names, listed.directories, strict=True):
        prefix = f"{volume}:" if len(listed.names) > 1 else ""
        for failure in manifest.failures(directory):
            failure |= {"row": first + failure["row"], "key": prefix + failure["key"]}
            writer.writerow({name: printable(failure[name]) for name in names})
        first += manifest.require_plan(directory).rows


@main.command("preview")
@click.argument("cache", type=CACHES)
@click.option("--out", type=OUT_FILE, required=True, help="File to write.")
@click.option("--faces", type=click.IntRange(1, 400), default=16, show_default=True)
@click.option("--origin", type=click.Choice(ORIGINS), help="Only landmarks of this origin.")
@click.option("--status", type=click.Choice(STATUSES), help="Only rows of this status.")
@click.option("--known-occlusion", is_flag=True, help="Only rows with a known visibility.")
@settings(random=Seed)
def preview_command(
    cache: Path,
    out: Path,
    faces: int,
    origin: str | None,
    status: str | None,
    known_occlusion: bool,
    random: Seed,
) -> None:
    """Draw a contact sheet: crop, landmarks, heatmap, regions, visibility.

    \b
    Examples:
      cache preview cache/ --out preview.png
      cache preview cache/ --origin retried --faces 60 --out retried.png
    """
    from faceguide.cache.inspect.preview import contact_sheet

    opened = FaceCache.open(cache)
    rows = opened.select(
        status=status, origin=origin, known_occlusion=True if known_occlusion else None
    )
    if not len(rows):
        raise CacheError(f"{cache}: no rows pass these filters")
    chosen = np.sort(np.random.default_rng(random.seed).permutation(rows)[:faces])
    sheet = contact_sheet(opened, chosen)
    with replacing(out) as temporary:
        sheet.save(temporary, "PNG")
    click.echo(f"{printable(out)}: {len(chosen)} of {len(rows)} rows")


main.add_command(copy_command)


@main.group("export", cls=Group)
def export_group() -> None:
    """Write parts of a cache in formats that other programs read."""


@export_group.command("landmarks")
@click.argument("cache", type=CACHES)
@click.option("--out", type=OUT_FILE, required=True, help="File to write.")
def export_landmarks_command(cache: Path, out: Path) -> None:
    """Write `key x1,y1 … x478,y478` in source pixels, one line per face.

    `prep landmarks --landmarks FILE` reads the same format.

    \b
    Example:
      cache export landmarks cache/ --out landmarks.txt
    """
    written, left_out = export_landmarks(FaceCache.open(cache), out)
    click.echo(f"{printable(out)}: {written} faces")
    if left_out:
        say(f"Note: {left_out} keys hold a line break, which this format cannot")


@export_group.command("occlusion")
@click.argument("cache", type=CACHES)
@click.option("--out", type=OUT_FILE, required=True, help="File to write.")
@click.option("--points", is_flag=True, help="Also the visible share at each of 478 landmarks.")
def export_occlusion_command(cache: Path, out: Path, points: bool) -> None:
    """Write how visible eyes, mouth and face are as CSV, one line per face where this is known.

    Measures go from 0 to 100, after ISO/IEC 29794-5, on the cells of the visibility map; known_from
    says whether they come from a mask (or --clean) or from an estimate. With --points, p0 to p477
    are the visible shares, 0 to 1, of the cells that the landmarks lie in; nan outside the crop.

    \b
    Example:
      cache export occlusion cache/ --out occlusion.csv
    """
    written = export_occlusion(FaceCache.open(cache), out, points)
    click.echo(f"{printable(out)}: {written} faces")
