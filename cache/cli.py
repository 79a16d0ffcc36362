"""`cache`: look at a cache, check it, seal it, take things out of it."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import click
import numpy as np
from tqdm import tqdm

from faceguide import __version__
from faceguide.cache import manifest
from faceguide.cache.inspect.export import export_landmarks
from faceguide.cache.inspect.info import damaged_shards, describe, summary
from faceguide.cache.inspect.verify import verify
from faceguide.cache.reader import FaceCache
from faceguide.cache.schema import GROUPS, ORIGINS, STATUSES
from faceguide.core.commands.console import SOME_FAILED, Group, echo_json, printable, say
from faceguide.core.commands.parts import show_indices
from faceguide.core.commands.settings import settings
from faceguide.core.commands.shared_options import FOLDER, OUT_FILE, MissingParts, Output, Seed
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


@main.command("info")
@click.argument("directory", type=FOLDER)
@settings(output=Output)
@click.pass_context
def info_command(context: click.Context, directory: Path, output: Output) -> None:
    """Rows, groups, sizes and counts; exit 3 when a shard is missing or not what was written.

    `cache verify` reads every byte, this reads little.

    \b
    Example:
      cache info cache/
    """
    found, doubts = summary(directory), damaged_shards(directory)
    found["doubts"] |= doubts.counts()
    echo_json(found) if output.as_json else click.echo(describe(found))
    doubts.say()
    if doubts:
        context.exit(SOME_FAILED)


@main.command("verify")
@click.argument("directory", type=FOLDER)
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True, help="Threads.")
@settings(output=Output)
@click.pass_context
def verify_command(context: click.Context, directory: Path, jobs: int, output: Output) -> None:
    """Check every checksum and every invariant; exit 1 when something is wrong.

    \b
    Example:
      cache verify cache/
    """
    plan = manifest.require_plan(directory)
    with tqdm(total=plan.shards * len(GROUPS), unit=" shards", disable=None) as bar:
        problems, notes = verify(directory, jobs=jobs, progress=bar.update)
    if output.as_json:
        echo_json({"problems": problems, "notes": notes})
    else:
        for line in [*problems, *notes]:
            click.echo(printable(line))
        click.echo(f"{len(problems)} problems in {plan.rows} rows and {plan.shards} shards")
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
@click.argument("directory", type=FOLDER)
def failures_command(directory: Path) -> None:
    """List every row that failed as CSV: group, row, key, status, reason.

    \b
    Example:
      cache failures cache/ > failures.csv
    """
    names = ["group", "row", "key", "status", "reason"]
    writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
    writer.writeheader()
    for failure in manifest.failures(directory):
        writer.writerow({name: printable(failure[name]) for name in names})


@main.command("preview")
@click.argument("directory", type=FOLDER)
@click.option("--out", type=OUT_FILE, required=True, help="File to write.")
@click.option("--faces", type=click.IntRange(1, 400), default=16, show_default=True)
@click.option("--origin", type=click.Choice(ORIGINS), help="Only landmarks of this origin.")
@click.option("--status", type=click.Choice(STATUSES), help="Only rows of this status.")
@click.option("--known-occlusion", is_flag=True, help="Only rows with a known visibility.")
@settings(random=Seed)
def preview_command(
    directory: Path,
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

    cache = FaceCache.open(directory)
    rows = cache.select(
        status=status, origin=origin, known_occlusion=True if known_occlusion else None
    )
    if not len(rows):
        raise CacheError(f"{directory}: no rows pass these filters")
    chosen = np.sort(np.random.default_rng(random.seed).permutation(rows)[:faces])
    sheet = contact_sheet(cache, chosen)
    with replacing(out) as temporary:
        sheet.save(temporary, "PNG")
    click.echo(f"{printable(out)}: {len(chosen)} of {len(rows)} rows")


@main.group("export", cls=Group)
def export_group() -> None:
    """Write parts of a cache in formats that other programs read."""


@export_group.command("landmarks")
@click.argument("directory", type=FOLDER)
@click.option("--out", type=OUT_FILE, required=True, help="File to write.")
def export_landmarks_command(directory: Path, out: Path) -> None:
    """Write `key x1,y1 … x478,y478` in source pixels, one line per face.

    `prep landmarks --landmarks FILE` reads the same format.

    \b
    Example:
      cache export landmarks cache/ --out landmarks.txt
    """
    written, left_out = export_landmarks(FaceCache.open(directory), out)
    click.echo(f"{printable(out)}: {written} faces")
    if left_out:
        say(f"Note: {left_out} keys hold a line break, which this format cannot")
