"""What a run of either trainer stands on: opened and checked before its first step, recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from faceguide.cache.plan import IDENTITIES
from faceguide.cache.reader import FaceCache
from faceguide.core.commands import settings
from faceguide.core.commands.allocator import keep_freed_memory
from faceguide.core.commands.doubts import Doubts
from faceguide.core.commands.run_directory import begin_training
from faceguide.core.commands.shared_options import Device
from faceguide.core.errors import TrainError
from faceguide.core.files import digest
from faceguide.train.distributed import Processes, barrier, choose_device, from_environment
from faceguide.train.listed_pairs import Pairs, twins_to_learn, verification_pairs
from faceguide.train.run.checkpoint import LAST
from faceguide.train.run.training_data import cache_hash, write_identities
from faceguide.train.training_settings import LoopSettings, Output, Source, Verification


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """What a run stands on.

    Attributes:
        pairs: for verification at the end of every epoch.
        learnable: rows that may be learnt; None = all.
        record: `settings` and `inputs` of run.json, when there is more than the run and `loop`.
    """

    cache: FaceCache
    directory: Path
    loop: LoopSettings
    device: torch.device
    processes: Processes
    pairs: Pairs | None = None
    learnable: NDArray[np.int64] | None = None
    record: dict[str, Any] | None = None
    output: Output | None = None

    @staticmethod
    def of(
        source: Source, output: Output, asked: Verification, loop: LoopSettings, machine: Device
    ) -> RunContext:
        """What the options name, opened.

        Raises:
            click.UsageError: when options contradict each other or the device.
            TrainError, CacheError: in one line each.
        """
        keep_freed_memory()
        if asked.eval_cache and not asked.pairs:
            raise click.UsageError("--eval-cache belongs to --pairs")
        processes = from_environment()
        device = choose_device(machine.device, processes)
        if loop.amp == "fp16" and device.type != "cuda":
            raise click.UsageError("--amp fp16 needs a CUDA device; choose bf16 or off")
        cache = FaceCache.open(source.cache_directory)
        return RunContext(
            cache=cache, directory=output.directory, loop=loop, device=device, processes=processes,
            pairs=verification_pairs(cache, asked, processes.first),
            learnable=twins_to_learn(cache, asked, processes.first),
            output=output,
        )  # fmt: skip

    def require_side(self, side: int | None, network: str, second: FaceCache | None = None) -> None:
        """All caches hold crops of one side.

        Args:
            side: in pixels that `network` needs; None = it takes any.

        Raises:
            TrainError: names each cache and its side.
        """
        evaluated = None if self.pairs is None else self.pairs.cache
        caches = {"CACHE": self.cache, "--niqab": second, "--eval-cache": evaluated}
        sides: dict[Path, tuple[str, int]] = {}  # a cache that two options name counts once
        for option, cache in caches.items():
            if cache is not None:
                sides.setdefault(cache.directory, (option, cache.require("image").shape[0]))
        found = {size for _, size in sides.values()}
        if found == {side} or (side is None and len(found) == 1):
            return
        listed = ", ".join(
            f"{option} {name} has crops of {size} pixels" for name, (option, size) in sides.items()
        )
        needed, wanted = f"{network} needs crops of {side} pixels", f" {side}"
        if side is None:
            needed, wanted = "the crops of a run must be of one size", ""
        raise TrainError(f"{listed}; {needed}: `prep landmarks --size{wanted}` makes another cache")

    def doubts(self, learnt: Sequence[str]) -> Doubts:
        """What looks wrong about --pairs, and whether weights are chosen on learnt identities.

        Two caches may know one identity under two names; only equal names are found.

        Args:
            learnt: names of the identities that are learnt.
        """
        found = Doubts()
        if self.pairs is None:
            return found
        cache = self.pairs.cache
        rows = np.unique(np.concatenate([self.pairs.first, self.pairs.second]))
        labels = np.unique(cache.read(rows, ["label"])["label"]).tolist()
        names = {cache.identities[label] for label in labels if label >= 0}
        known = sorted(names & set(learnt))
        found.update(self.pairs.doubts)
        found.add("learnt_identities", known[0] if known else "", len(known))
        return found

    def fixed(self, run: Any, rows: NDArray[np.int64], **more: Any) -> dict[str, Any]:
        """What must be equal for the run to be resumed, by whatever number of processes."""
        # Scores are compared with the best so far, so the pairs count.
        pairs = {} if self.pairs is None else {"pairs": self.pairs.key()}
        return {
            **settings.fixed(run, self.loop),
            "cache": cache_hash(self.cache),
            "rows": digest(rows.tolist()),
            "batch_size": run.batch_size * self.processes.world,
            **pairs,
            **more,
        }

    def begin(
        self,
        command: str,
        run: Any,
        fixed: dict[str, Any],
        models: Mapping[str, Any],
        names: Sequence[str],
        doubts: Doubts,
        images: int,
        steps: int,
        **facts: Any,
    ) -> None:
        """Write run.json and the identities, last of all: a failed start claims no directory.

        A dry run ends here.

        Args:
            fixed: what the method of this name made.
            models: role → what run.json says of the model.
            names: of the identities that are learnt.
            images: that are learnt.
            steps: of the whole run.
        """
        if self.output is not None and self.output.dry_run:
            if not self.processes.first:
                raise click.exceptions.Exit(0)
            doubts.say()
            self.output.rehearsed(
                {
                    "command": command, "images": images, "identities": len(names),
                    "batch_size": fixed["batch_size"], "steps": steps,
                    "device": str(self.device), "amp": self.loop.amp,
                    "processes": self.processes.world,
                    "resumes": (self.directory / LAST).exists(), "doubts": doubts.counts(),
                }
            )  # fmt: skip
        if self.processes.first:
            about = {
                "models": models,
                "cache": str(self.cache.directory.resolve()),
                "cache_hash": cache_hash(self.cache),
                "identities": IDENTITIES,
                "seed": run.recipe.seed,
                "processes": self.processes.world,
                "doubts": doubts.counts(),
            }
            record = self.record or {"settings": settings.recorded(run, self.loop)}
            begin_training(self.directory, command, fixed=fixed, **about, **facts, **record)
            write_identities(self.directory, names)
            doubts.say()
        barrier()
