"""The shards of one part of a command: run the missing ones, say what came of them."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from faceguide.cache import manifest
from faceguide.cache.plan import Plan
from faceguide.cache.reader import FaceCache
from faceguide.cache.schema import ORIGINS
from faceguide.cache.shard import sidecar_path
from faceguide.core.commands.console import SomeFailed, echo_json, printable
from faceguide.core.commands.doubts import STAGES, Doubts
from faceguide.core.commands.parts import shards_of
from faceguide.core.files import read_json
from faceguide.preprocess import parallel
from faceguide.preprocess.prep_options import Here
from faceguide.preprocess.sources.repeated_images import repeated_rows


@dataclass(frozen=True)
class Work:
    """The shards of one part of a command.

    Attributes:
        groups: what the command makes, the one that is reported first.
    """

    directory: Path
    plan: Plan
    groups: tuple[str, ...]
    here: Here

    @property
    def mine(self) -> list[int]:
        return shards_of(self.here.part, self.plan.shards)

    def run(self, work: Any) -> tuple[bool, list[Any]]:
        """Run the unfinished shards; (whether that was the whole cache, results)."""
        missing: set[int] = set()
        for group in self.groups:
            recipe = manifest.group_recipe(self.directory, self.plan, group)
            assert recipe is not None
            missing.update(manifest.missing_shards(self.directory, group, recipe, self.mine))
        units = sorted(missing)
        if self.here.dask is not None:
            return len(units) == self.plan.shards, parallel.run_dask(work, units, self.here.dask)
        done = sum(self.plan.rows_of(shard) for shard in self.mine if shard not in missing)
        results = parallel.run(
            work,
            units,
            jobs=self.here.processes,
            total=sum(map(self.plan.rows_of, self.mine)),
            unit=" faces",
            done=done,
        )
        return len(units) == self.plan.shards, list(results)

    def finish(self, started: float) -> None:
        """Seal what is complete, say what came of this part, and settle the exit code.

        Args:
            started: `time.monotonic()` at the beginning.

        Raises:
            SomeFailed: when images failed and that is not allowed.
        """
        done = self.close(started)
        echo_json(done) if self.here.as_json else click.echo(self.describe(done))
        self.require_none_failed(done["failures"], done["images"])

    def close(self, started: float) -> dict[str, Any]:
        """Seal what is complete and count what came of this part, as --json prints it.

        Doubts that a stage kept about these groups are said here; those about the source and
        its landmarks were said when the plan was settled.

        Args:
            started: `time.monotonic()` at the beginning.
        """
        faces = "faces" in self.groups
        sealed = [
            manifest.seal_if_complete(self.directory, group, self.plan) for group in self.groups
        ]
        status: Counter[str] = Counter()
        origin: Counter[str] = Counter()
        for shard in self.mine:
            sidecar = read_json(sidecar_path(self.directory, self.groups[0], shard))
            status.update(sidecar["status"])
            origin.update(sidecar.get("origin", {}))
        if faces and all(sealed):
            repeated_rows(FaceCache.open(self.directory)).keep(self.directory, "images")
        doubts = Doubts()
        for stage in (stage for group in self.groups for stage in STAGES[group]):
            kept = Doubts.kept(self.directory, stage)
            if stage not in ("sources", "faces"):
                kept.say()
            doubts.update(kept)
        return {
            **({"finder": self.plan.recipe["finder"]["tool"]} if faces else {}),
            "images": sum(status.values()),
            "rows": self.plan.rows,
            "shards": self.plan.shards,
            "failures": sum(
                n for name, n in status.items() if name not in ("ok", "unknown", "estimated")
            ),
            "seconds": round(time.monotonic() - started, 3),
            "complete": all(sealed),
            "origins": {name: origin.get(name, 0) for name in ORIGINS},
            "status": dict(status.most_common()),
            "doubts": doubts.counts(),
        }

    def describe(self, done: dict[str, Any]) -> str:
        """The counts of `close` in words."""
        states = ", ".join(f"{count} {name}" for name, count in done["status"].items())
        lines = [
            f"{printable(self.directory)}: {done['images']} of {self.plan.rows} rows "
            f"in {len(self.mine)} of {self.plan.shards} shards: {states}"
        ]
        origins = ", ".join(f"{n} {name}" for name, n in done["origins"].items() if n)
        if origins:
            lines.append(f"landmarks: {origins}")
        if not done["complete"]:
            lines.append("not sealed yet: other parts are missing")
        return "\n".join(lines)

    def require_none_failed(self, failures: int, images: int) -> None:
        """The exit code of a command that finished.

        Raises:
            SomeFailed: when images failed and that is not allowed.
        """
        if failures and not self.here.allow_failures:
            raise SomeFailed(
                f"{failures} of {images} images failed; `cache failures {self.directory}` lists "
                "them"
            )
