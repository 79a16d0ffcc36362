"""How long the attribution of the same pairs takes here and in an earlier checkout.

    git worktree add /tmp/before a527f58
    python bench/attribution_before.py cache/ --pairs pairs.csv --weights mobilefacenet.pt \\
      --backbone mobilefacenet --before /tmp/before --limit 100

Both run `evaluate attribution` as a whole, in turns, with the same number of threads. A time is the
lowest of all rounds. What their results differ in is what `evaluate diff` says. An earlier checkout
may need a cache of its own making: --before-cache.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from faceguide.core.files import write_bytes
from faceguide.evaluate.attribution.pages.difference import compare_runs

HERE = Path(__file__).resolve().parents[1]
FILE = click.Path(exists=True, path_type=Path)


def seconds(checkout: Path, words: list[str], out: Path, threads: int) -> float:
    """One run of a checkout's command, which leaves its results in `out`."""
    environment = {
        **os.environ, "PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": str(threads)
    }  # fmt: skip
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "faceguide", "evaluate", "attribution", *words, "--out", str(out)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{checkout}: {done.stderr.strip().splitlines()[-1]}")
    return time.perf_counter() - began


@click.command()
@click.argument("cache", type=FILE)
@click.option("--pairs", type=FILE, required=True)
@click.option("--weights", type=FILE, required=True)
@click.option("--backbone")
@click.option("--before", type=FILE, required=True, help="The earlier checkout.")
@click.option("--before-cache", type=FILE, help="[default: CACHE]")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True)
@click.option("--methods", default="standard", show_default=True)
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=1, show_default=True)
@click.option("--json", "target", type=click.Path(dir_okay=False, path_type=Path))
def main(
    cache: Path,
    pairs: Path,
    weights: Path,
    backbone: str | None,
    before: Path,
    before_cache: Path | None,
    limit: int,
    methods: str,
    threads: int,
    rounds: int,
    target: Path | None,
) -> None:
    """Time the same attribution in two checkouts, and compare its results."""
    words = ["--pairs", str(pairs), "--weights", str(weights), "--methods", methods]
    words += ["--limit", str(limit), "--seed", "1", "--protocol", "matched"]
    words += [] if backbone is None else ["--backbone", backbone]
    sides = {"before": (before, before_cache or cache), "now": (HERE, cache)}
    best = dict.fromkeys(sides, float("inf"))
    with tempfile.TemporaryDirectory() as made:
        for number in range(rounds):
            for name, (checkout, faces) in sides.items():
                out = Path(made) / f"{name}-{number}"
                took = seconds(checkout, [str(faces), *words], out, threads)
                best[name] = min(best[name], took)
        # Rates are shares of 1 over so few pairs: equal to rounding is equal.
        found = compare_runs(Path(made) / "before-0", Path(made) / "now-0", 1e-3)
    ratio = best["before"] / best["now"]
    differing = sum(verdict["count"] for verdict in found["verdicts"].values())
    if target is not None:
        record = {
            "seconds": best, "ratio": ratio, "verdicts": differing, "figures": found["figures"]
        }  # fmt: skip
        write_bytes(target, (json.dumps(record, indent=1) + "\n").encode())
    click.echo(f"{limit} pairs, {methods} methods, {threads} threads, {weights.name}")
    click.echo("run      seconds   times as fast")
    click.echo(f"before{best['before']:>10.1f}            1.00")
    click.echo(f"now   {best['now']:>10.1f}{ratio:>16.2f}")
    click.echo(f"verdicts that differ: {differing}; figures by more than 0.001: {found['figures']}")


if __name__ == "__main__":
    main()
