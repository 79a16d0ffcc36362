"""`train cal`: what one step of Counterfactual Attention Learning with guidance does.

Source of the recipe: Rao et al., ICCV 2021, and its published code: three passes per step (the
image, its attention crop, its attention drop), the effect of attention trained next to the logits,
and feature centres. Its faults are left out; `train/models/attention_crop.py` says which.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from faceguide.train.cal import attention_guidance, cal_terms
from faceguide.train.cal.attention_guidance import Cells, Targets, at_cells
from faceguide.train.cal.attention_watch import watch
from faceguide.train.cal.cal_settings import CalSettings
from faceguide.train.cal.cal_trainee import Trainee
from faceguide.train.cal.guidance_losses import fake_attention, prior_share
from faceguide.train.data import augment
from faceguide.train.data.keyed_random import keyed_uniform
from faceguide.train.models.attention_crop import crop, crop_boxes, kept_after_drop
from faceguide.train.models.cal_network import CalOutput
from faceguide.train.training import Batch, Forward, Losses, Place

CROP_THETA, CROP_PADDING = (0.4, 0.6), 0.1
DROP_THETA = (0.2, 0.5)
# Purposes of random numbers, apart from those of `augment`; the number of the pass is added.
_THETA, _FAKE, _MAPS = 3, 10, 20
RAW, CROP, DROP = 0, 1, 2


def columns_of(settings: CalSettings, there: tuple[str, ...]) -> tuple[str, ...]:
    """Columns that a step reads of a cache that has `there`.

    Plain CAL reads the targets too where there are any: the energy inside the regions is what
    guidance is compared by.
    """
    guided = ("regions", "heatmap", "origin")
    aims = settings.guidance.guides or set(guided) <= set(there)
    placed = settings.surround or settings.guidance.weight("oval")
    return ("image", "label", *guided * bool(aims), *("landmarks",) * bool(placed))


@dataclass(frozen=True)
class CalStep:
    """The step of `train cal`, called by the loop.

    Attributes:
        augmentation: the random changes of a training image.
        trainee: for its centres and the table of classes; gradients flow through `forward`.
        side: of the attention map in cells.
        listed: pairs of a pairs file at the end of every batch.
    """

    settings: CalSettings
    augmentation: augment.Augmentation
    trainee: Trainee
    side: int
    listed: int = 0

    def __call__(self, forward: Forward, batch: Batch, place: Place) -> Losses:
        trainee, guidance, rows = self.trainee, self.settings.guidance, batch["row"]
        pixels, targets = self.prepare(batch, place)
        labels = trainee.classes[batch["label"]]
        cells = None if targets is None else at_cells(targets, self.side, self.side)
        raw, maps = self._pass(forward, pixels, cells, rows, place, (RAW,))
        passes, views = [(maps, cells)], None
        if self.settings.views:
            images, aimed = self._views(pixels, raw.attention, targets, rows, place)
            joined = None if aimed is None else attention_guidance.join(*aimed)
            views, views_maps = self._pass(forward, images, joined, rows, place, (CROP, DROP))
            passes += zip(views_maps.chunk(2), aimed or (None, None), strict=True)
        losses = cal_terms.recognition_losses(raw, views, labels)
        losses["centre"] = cal_terms.centre_loss(raw.features, trainee.centres, labels)
        total = cal_terms.recognition_total(losses) + losses["centre"]
        if cells is not None:
            guided = attention_guidance.guide_passes(guidance, passes, labels, self.listed)
            for name, value in guided.items():
                losses[f"guide_{name.replace('-', '_')}"] = value
            if guided:
                total = total + attention_guidance.weighted(guidance, guided)
            if guidance.weight("prior"):
                losses["prior_share"] = total.new_tensor(self._share(place))
        cal_terms.update_centres(raw.features, trainee.centres, labels)
        with torch.no_grad():
            losses["accuracy"] = (raw.logits.argmax(1) == labels).float().mean()
            losses |= watch(maps, cells, attention_guidance.heads_of(guidance, trainee.heads))
            per_image = nn.functional.cross_entropy(raw.logits.float(), labels, reduction="none")
        return {"loss": total, "per_image": per_image, **losses}

    def prepare(self, batch: Batch, place: Place) -> tuple[Tensor, Targets | None]:
        """Augmented pixels of the network, and the targets under the same transforms."""
        images, key = batch["image"], (self.settings.seed, place.epoch)
        geometry = augment.draw_geometry(self.augmentation, images.shape[1], *key, batch["row"])
        warped = augment.warp_images(images, geometry)
        jittered = augment.jitter(warped, self.augmentation, *key, batch["row"])
        pixels = self.trainee.model.input_spec.prepare(jittered)
        if "regions" not in batch:
            return pixels, None
        known = attention_guidance.known_origin(batch["origin"], self.settings.guidance.template)
        covered = batch["regions"]
        if "oval" in batch:
            covered = torch.cat([covered, batch["oval"] * known[:, None, None, None]], 1)
        heatmap = augment.warp_targets(batch["heatmap"][:, None], geometry)
        return pixels, Targets(augment.warp_targets(covered, geometry), heatmap, known)

    @torch.no_grad()
    def _views(
        self, pixels: Tensor, shown: Tensor, targets: Targets | None, rows: Tensor, place: Place
    ) -> tuple[Tensor, tuple[Cells, Cells] | None]:
        """The crops, then the drops, and the targets of either."""
        height, width = pixels.shape[2:]
        draws = self._uniform(_THETA, place, rows, 2)
        theta = CROP_THETA[0] + (CROP_THETA[1] - CROP_THETA[0]) * draws[:, 0]
        boxes = crop_boxes(shown[:, :1], theta, CROP_PADDING, height, width)
        theta = DROP_THETA[0] + (DROP_THETA[1] - DROP_THETA[0]) * draws[:, 1]
        kept = kept_after_drop(shown[:, 1:], theta, height, width)
        images = torch.cat([crop(pixels, boxes, height, width), pixels * kept])
        if targets is None:
            return images, None
        cropped = at_cells(targets.cropped(boxes, height, width), self.side, self.side)
        return images, (cropped, at_cells(targets.masked(kept), self.side, self.side))

    def _pass(
        self,
        forward: Forward,
        pixels: Tensor,
        cells: Cells | None,
        rows: Tensor,
        place: Place,
        passes: tuple[int, ...],
    ) -> tuple[CalOutput, Tensor]:
        """Output and all maps of images that are `rows` once for each of the passes."""
        guidance, heads = self.settings.guidance, self.trainee.heads
        count = heads * self.side**2
        uniform = torch.cat([self._uniform(_FAKE + one, place, rows, count) for one in passes])
        draws = torch.cat([self._uniform(_MAPS + one, place, rows, 2) for one in passes])
        mask = known = heatmap = share = None
        if cells is not None and guidance.weight("counterfactual"):
            mask, known = cells.mask, cells.known
        if cells is not None and guidance.weight("prior"):
            heatmap = cells.heatmap
            share = self._share(place) * cells.known.to(heatmap.dtype)[:, None, None, None]
        uniform = uniform.view(len(pixels), heads, self.side, self.side)
        fake = fake_attention(uniform, mask, known, guidance.fake_inside, guidance.fake_outside)
        *output, maps = forward(pixels, fake, draws, heatmap, share)
        return CalOutput(*output), maps

    def _share(self, place: Place) -> float:
        return prior_share(self.settings.guidance.weight("prior"), place.step, place.steps)

    def _uniform(self, purpose: int, place: Place, rows: Tensor, count: int) -> Tensor:
        return keyed_uniform((self.settings.seed, place.epoch, purpose), rows, count)
