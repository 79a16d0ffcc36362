"""`train distil` as the loop sees it: rate, step, evaluation, pictures."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from faceguide.train.distil.alterations import Alterations
from faceguide.train.distil.distil_pictures import FACES, draw_pairs
from faceguide.train.distil.distil_settings import DistilRun
from faceguide.train.distil.distil_step import DistilStep
from faceguide.train.distil.distil_trainee import DistilTrainee
from faceguide.train.distil.kept_maps import KeptMaps
from faceguide.train.distil.map_batches import EPOCH, Chosen, gather
from faceguide.train.listed_pairs import verify
from faceguide.train.models.backbones.backbone import keypoints_of
from faceguide.train.models.embedder import embed
from faceguide.train.run.run_context import RunContext
from faceguide.train.training import Batch, Forward, Losses, Place, Trainer

WARM_UP = 50  # steps, or an eighth of a short run
# What versions are called in measures.
_CALLED = {"clean": "clean", "cover": "covered", "surround": "swapped"}


class DistilTrainer(Trainer):
    """Distillation from kept maps.

    Args:
        trainee: with the released weights: pictures compare with them.
        recipe: digest of the settings that decide the numbers.
        context: for its device, the length of the run and the pairs of the evaluation.
        held: (H,) places of the faces that are evaluated.
        alterations: for pictures.
    """

    module: DistilTrainee

    def __init__(
        self,
        trainee: DistilTrainee,
        run: DistilRun,
        recipe: str,
        context: RunContext,
        kept: KeptMaps,
        held: NDArray[np.int64],
        alterations: Alterations,
    ) -> None:
        self.module, self.recipe, self.seed = trainee, recipe, run.recipe.seed
        trained = [value for value in trainee.parameters() if value.requires_grad]
        self.optimiser = torch.optim.Adam(trained, run.rate)
        self._run, self._context, self._kept, self._held = run, context, kept, held
        self._alterations = alterations
        self._step = DistilStep(run.recipe.counts(run.batch_size), run.recipe.surround_weight)
        self._kinds = [kind for kind in _CALLED if getattr(kept, kind)]
        self._before = {}
        if context.loop.picture_every and context.processes.first:
            with torch.no_grad():
                self._before = {kind: self._agreement(kind, held[:FACES]) for kind in self._kinds}

    def rate(self, epochs: float) -> float:
        """A linear warm-up under a cosine to 0."""
        loop = self._context.loop
        assert loop.steps is not None
        done = epochs * EPOCH / loop.accumulate
        rises = min((done + 1) / max(min(WARM_UP, loop.steps // 8), 1), 1.0)
        falls = 0.5 * (1.0 + math.cos(math.pi * min(done / loop.steps, 1.0)))
        return self._run.rate * rises * falls

    def step(self, forward: Forward, batch: Batch, place: Place) -> Losses:
        return self._step(forward, batch)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Agreement with the released network on the faces that were held out.

        Mean cosines: `clean_agreement` of embeddings of unaltered faces; `covered_agreement` of
        the visible part; `swapped_agreement` of embeddings. The `score` is the mean of the altered
        ones, or the area under the ROC of --pairs; −∞ below the clean limit.
        """
        values: dict[str, float] = {}
        for kind in self._kinds:
            found = self._agreement(kind, self._held)
            values[f"{_CALLED[kind]}_agreement"] = float(found.mean())
        altered = [value for name, value in values.items() if not name.startswith("clean")]
        values["score"] = sum(altered) / len(altered) if altered else values["clean_agreement"]
        if self._context.pairs is not None:
            values |= verify(
                self._context.pairs, self._describe, columns=self._columns(),
                batch_size=self._run.batch_size, device=self._context.device,
            )  # fmt: skip
        if values["clean_agreement"] < self._run.recipe.clean_limit:
            values["score"] = -math.inf
        return values

    def end(self, values: dict[str, float]) -> str | None:
        """Whether unaltered faces have suffered."""
        found, limit = values["clean_agreement"], self._run.recipe.clean_limit
        if found >= limit:
            return None
        return (
            f"on unaltered faces the network agrees with the released one by {found:.4f}, less "
            f"than --clean-limit {limit}; the best weights before are kept"
        )

    def _columns(self) -> tuple[str, ...]:
        return ("image", "landmarks") if self.module.network.needs_keypoints else ("image",)

    def _describe(self, batch: Batch) -> Tensor:
        network = self.module.network
        pixels = network.input_spec.prepare(batch["image"])
        told = {}
        if network.needs_keypoints:
            told["keypoints"] = keypoints_of(batch["landmarks"])
        return embed(network, pixels, None, **told)[0]

    def _agreement(self, kind: str, places: NDArray[np.int64]) -> Tensor:
        """(n,) cosines of version 0 with the released network's answer to the unaltered face.

        Under covers, of the visible parts.
        """
        parts = []
        for some in np.array_split(places, -(-len(places) // self._run.batch_size)):
            batch = gather(self._kept, [Chosen(kind, 0, some)])
            batch = {name: values.to(self._context.device) for name, values in batch.items()}
            told = {name: batch[name] for name in ("keypoints",) if name in batch}
            raw, terms = self.module(batch["maps"], **told)
            if kind == "cover":
                raw = torch.einsum("ns,nse->ne", batch["seen"], terms)
            wanted = batch["part" if kind == "cover" else "raw"]
            parts.append(nn.functional.cosine_similarity(raw, wanted))
        return torch.cat(parts).double().cpu()

    @torch.no_grad()
    def picture(self, path: Path, batch: Batch, place: Place) -> None:
        """Held-out faces and their altered versions, with agreement before and after."""
        places, drawn = self._held[:FACES], self._alterations
        images = {"clean": drawn.clean(places)}
        if "cover" in self._kinds:
            images["cover"] = drawn.cover(places, 0)[0]
        if "surround" in self._kinds:
            images["surround"] = drawn.surround(places, 0)
        agreement = {
            kind: torch.stack([self._before[kind], self._agreement(kind, places)], 1).numpy()
            for kind in images
        }
        draw_pairs(path, images, agreement)
