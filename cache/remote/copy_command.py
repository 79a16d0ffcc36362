"""`cache copy`: a cache, or some of its rows, from one place to another."""

from __future__ import annotations

import shutil
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from faceguide.cache.pairs.list_text import text_lines
from faceguide.cache.reader import FaceCache
from faceguide.cache.remote.copying import Contents, contents, copy, fetch_lists, store_of
from faceguide.cache.remote.cutting import cut
from faceguide.cache.remote.mirror import mirror
from faceguide.cache.remote.store import Store, is_address
from faceguide.core.commands.console import Command, echo_json, printable
from faceguide.core.commands.doubts import Doubts
from faceguide.core.commands.settings import settings
from faceguide.core.commands.shared_options import Output


@click.command("copy", cls=Command)
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@click.option(
    "--rows",
    "chosen",
    multiple=True,
    metavar="NAME=VALUE|FILE",
    help="Only rows with this value of a meta column or of status, or with the keys of a file, one "
    "a line; several must all hold.",
)
@click.option(
    "--on-demand",
    is_flag=True,
    help="Copy only plan and manifests: a shard follows when it is read.",
)
@click.option(
    "--limit",
    type=click.FloatRange(0, min_open=True),
    metavar="GB",
    help="With --on-demand: space for shards; those whose use is longest ago leave.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be copied.")
@settings(output=Output)
def copy_command(
    source: str,
    target: str,
    chosen: tuple[str, ...],
    on_demand: bool,
    limit: float | None,
    dry_run: bool,
    output: Output,
) -> None:
    """Copy a sealed cache, or some of its rows, between folders and stores.

    SRC and DST are folders or addresses: s3://bucket/cache, https://host/cache (only SRC), whatever
    fsspec opens (pip install 'faceguide[remote]'). Every shard is compared with its manifest. Rerun
    the same command to resume.

    \b
    Examples:
      cache copy cache/ s3://bucket/cache
      cache copy s3://bucket/cache cache/
      cache copy cache/ train/ --rows split=train --rows status=ok
      cache copy s3://bucket/cache /scratch/cache --on-demand --limit 200
    """
    if chosen and (on_demand or is_address(target)):
        raise click.UsageError("--rows cuts into a folder here; copy that one in a second step")
    if limit is not None and not on_demand:
        raise click.UsageError("--limit is for --on-demand")
    if on_demand and (is_address(target) or not is_address(source)):
        raise click.UsageError("--on-demand copies from an address into a folder")
    store, doubts = store_of(source), Doubts()
    found = contents(store)
    told = {"files": len(found.shards), "bytes": found.bytes}
    if dry_run:
        told |= {"copied_bytes": 0}
    elif on_demand:
        mirror(source, Path(target), None if limit is None else int(limit * 1e9))
        told |= {"copied_bytes": 0}
    elif chosen:
        told = {"rows": _cut(source, store, found, Path(target), chosen, doubts)}
    else:
        with tqdm(total=found.bytes, unit="B", unit_scale=True, disable=None) as bar:
            told |= {"copied_bytes": copy(store, found, target, bar.update)}
    doubts.say()
    if output.as_json:
        echo_json({**told, "doubts": doubts.counts()})
        return
    what = (
        f"{told['rows']:,} rows"
        if chosen and not dry_run
        else (f"{told['files']:,} shards of {told['bytes'] / 1e6:,.1f} MB")
    )
    click.echo(f"{printable(target)}: {what}" + (" would be copied" if dry_run else ""))


def _cut(
    source: str,
    store: Store,
    found: Contents,
    target: Path,
    chosen: tuple[str, ...],
    doubts: Doubts,
) -> int:
    """Write the rows that pass the filters; how many they are."""
    directory = Path(source)
    if is_address(source):  # its shards pass through a folder that is removed at the end
        directory = target.with_name(f".{target.name}.mirror")
        mirror(source, directory)
        fetch_lists(store, found, directory)
    cache = FaceCache.open(directory)
    rows = _rows(cache, chosen, doubts)
    with tqdm(total=len(rows) * len(cache.groups), unit=" rows", disable=None) as bar:
        cut(cache.volumes[0], rows, target, bar.update)
    if is_address(source):
        shutil.rmtree(directory, ignore_errors=True)
    return len(rows)


def _rows(cache: FaceCache, chosen: tuple[str, ...], doubts: Doubts) -> NDArray[np.int64]:
    """Rows that pass every filter."""
    status: str | None = None
    meta: dict[str, str] = {}
    keys: list[list[str]] = []
    for text in chosen:
        name, sign, value = text.partition("=")
        if Path(text).is_file():
            keys.append([line.rstrip("\r\n") for line in text_lines(Path(text)) if line.strip()])
        elif not sign or not name or meta.get(name, value) != value:
            raise click.UsageError(f"--rows {text}: neither a file nor one NAME=VALUE per name")
        elif name == "status":
            status = value
        else:
            meta[name] = value
    rows = cache.select(status=status, meta=meta)
    for wanted in keys:
        there = cache.find(wanted)
        absent = [key for key in dict.fromkeys(wanted) if key not in there]
        doubts.add("absent_images", absent[0] if absent else "", len(absent))
        rows = np.intersect1d(rows, np.fromiter(there.values(), np.int64, len(there)))
    return rows
