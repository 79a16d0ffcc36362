"""`python -m tests.campaigns`: inject every fault, print the table, fail unless all survived.

Each campaign writes its counts to --out when it has ended; running the command again goes on with
those that are missing. Inputs that a parser did not survive are left in --out/failed.
"""

from __future__ import annotations

import importlib
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import click
from tests.campaigns.counts import Campaign, Counts, UnavailableError, table

MODULES = (
    *("kills", "failing_calls", "full_disk", "two_runs", "vanishing", "downloads", "bitrot"),
    *("fuzz", "soak"),
)


def campaigns() -> dict[str, Campaign]:
    """Every campaign by name: what the modules' `CAMPAIGNS` hold, in this order."""
    found: dict[str, Campaign] = {}
    for name in MODULES:
        found |= importlib.import_module(f"tests.campaigns.{name}").CAMPAIGNS
    return found


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("faults"), show_default=True)
@click.option("--only", multiple=True, help="Campaigns whose names begin so; may be repeated.")
@click.option(
    "--scale",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="Share of the full counts, for a quick pass.",
)
@click.option("--seed", type=int, default=0, show_default=True)
def main(out: Path, only: tuple[str, ...], scale: float, seed: int) -> None:
    """Run the fault campaigns.

    \b
    Example:
      python -m tests.campaigns --only kill --scale 0.05 --out /tmp/quick
    """
    out.mkdir(parents=True, exist_ok=True)
    known = campaigns()
    chosen = [name for name in known if not only or name.startswith(only)]
    if not chosen:
        raise click.UsageError(f"no such campaign; there are {', '.join(known)}")
    counts: dict[str, Counts] = {}
    for name in chosen:
        record = out / f"{name.replace('/', '-')}.json"
        if record.exists():
            click.echo(f"{name}: done before ({record})", err=True)
        else:
            try:
                _one(name, known[name], scale, seed, out / "failed").save(record)
            except UnavailableError as error:
                click.echo(f"{name}: not run here: {error}", err=True)
                continue
        counts[name] = Counts.load(record)
        for line in counts[name].failures:
            click.echo(f"{name}: {line}", err=True)
    click.echo(table(counts))
    for name, one in counts.items():
        if one.details:
            listed = ", ".join(f"{what} {value:g}" for what, value in one.details.items())
            click.echo(f"{name}: {listed}")
    failed = [name for name, one in counts.items() if not one.passed]
    if failed:
        click.echo(f"not everything was survived: {', '.join(failed)}", err=True)
        sys.exit(1)


def _one(name: str, campaign: Campaign, scale: float, seed: int, failed: Path) -> Counts:
    count = max(1, round(campaign.full * scale))
    click.echo(f"{name}: {count} …", err=True)
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    began = time.monotonic()
    try:
        counts = campaign.run(count, seed, folder)
    finally:
        if (folder / "failed").is_dir():  # inputs that a parser did not survive
            shutil.copytree(folder / "failed", failed, dirs_exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
    return replace(counts, seconds=time.monotonic() - began)


if __name__ == "__main__":
    main()
