"""`train cal`: what one step of Counterfactual Attention Learning with guidance does.

Source of the recipe: Rao et al., ICCV 2021, and its published code: three passes per step (the
image, its attention crop, its attention drop), the effect of attention trained beside the logits,
and feature centres. Its faults are left out; `train/models/attention_crop.py` says which.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from faceguide.train.cal import attention_guidance, cal_terms
from faceguide.train.cal.attention_guidance import Cells, Targets
from faceguide.train.cal.cal_settings import CalSettings
from faceguide.train.cal.guidance_losses import PriorNetwork, fake_attention, prior_share
from faceguide.train.data import augment
from faceguide.train.data.keyed_random import keyed_uniform
from faceguide.train.models.attention_crop import crop, crop_boxes, kept_after_drop
from faceguide.train.models.cal_network import WSDANCAL, CalOutput, CalParts
from faceguide.train.trainer import Batch, Forward, Losses, Place

CROP_THETA, CROP_PADDING = (0.4, 0.6), 0.1
DROP_THETA = (0.2, 0.5)
# Purposes of draws, apart from those of `augment`; the number of the pass is added.
_THETA, _FAKE, _DRAWS = 3, 10, 20
RAW, CROP, DROP = 0, 1, 2


def columns_of(settings: CalSettings, there: tuple[str, ...]) -> tuple[str, ...]:
    """Columns that a step reads of a cache that has `there`.

    Plain CAL reads the targets too where there are any: the energy inside the regions is what
    guidance is compared by.
    """
    guided = ("regions", "heatmap", "origin")
    if settings.guidance.guides or set(guided) <= set(there):
        return ("image", "label", *guided)
    return ("image", "label")


class Trainee(nn.Module):
    """All that is trained or kept with the weights: the model, the prior's network, the centres.

    Args:
        model: a CAL model.
        classes: (labels,) int64, label of the cache → class, −1 where it is not trained.
        prior: with the network of guidance method 4.
        freeze_norm: keep BatchNorm in eval mode.
    """

    classes: Tensor
    centres: Tensor

    def __init__(
        self, model: WSDANCAL, classes: Tensor, *, prior: bool = False, freeze_norm: bool = False
    ) -> None:
        super().__init__()
        self.model = model
        self.heads = model.attentions.conv.out_channels
        self.prior = PriorNetwork(self.heads) if prior else None
        self.freeze_norm = freeze_norm
        self.register_buffer("classes", classes)
        self.register_buffer("centres", torch.zeros_like(model.fc.weight))

    def train(self, mode: bool = True) -> Trainee:
        """Training mode, but for BatchNorm when it is frozen."""
        super().train(mode)
        if self.freeze_norm:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def forward(
        self,
        pixels: Tensor,
        fake: Tensor,
        draws: Tensor,
        heatmap: Tensor | None = None,
        share: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """One pass.

        Args:
            pixels: (N, 3, H, W).
            fake: (N, M, h, w) counterfactual attention.
            draws: (N, 2) uniform, which maps crop and drop look at.
            heatmap: (N, 1, h, w) for the prior.
            share: (N, 1, 1, 1) weight of each image's prior.

        Returns:
            logits, effect, features, shown attention, all M maps; see `CalParts`. A flat tuple:
            data-parallel wrappers and compilers keep it as it is.
        """
        prior = None
        if self.prior is not None and heatmap is not None:
            prior = self.prior(heatmap)
        parts = self.model(
            pixels,
            fake_attention=fake,
            draws=draws,
            prior=prior,
            prior_share=0.0 if share is None else share,
            parts=True,
        )
        assert isinstance(parts, CalParts)
        return (*parts.output, parts.maps)


@torch.no_grad()
def map_side(model: WSDANCAL, crop_side: int) -> int:
    """Side of the attention map for images of `crop_side` pixels."""
    modes = {module: module.training for module in model.modules()}
    device = model.fc.weight.device
    parts = model.eval()(torch.zeros(1, 3, crop_side, crop_side, device=device), parts=True)
    for module, training in modes.items():  # `train` would wake a frozen BatchNorm
        module.training = training
    assert isinstance(parts, CalParts)
    return parts.maps.shape[2]


@dataclass(frozen=True)
class CalStep:
    """The step of `train cal`, called by the loop.

    Attributes:
        settings: the recipe.
        augmentation: what is drawn for a training image.
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
        """Losses of one batch; `loss` is the one to descend.

        Args:
            forward: the trainee, perhaps wrapped or compiled.
            batch: columns of the cache and `row`.
            place: where training stands.

        Returns:
            `loss` and what is logged, scalars; `per_image` (N,) for naming faulty images.
        """
        recipe, rows = self.settings, batch["row"]
        pixels, targets = self.prepare(batch, place)
        labels = self.trainee.classes[batch["label"]]
        cells = attention_guidance.at_cells(targets, self.side, self.side) if targets else None
        raw, maps = self._pass(forward, pixels, cells, rows, place, (RAW,))
        views, views_maps, views_cells = None, None, None
        if recipe.views:
            images, views_cells = self._views(pixels, raw.attention, targets, rows, place)
            views, views_maps = self._pass(forward, images, views_cells, rows, place, (CROP, DROP))
        losses = cal_terms.recognition_losses(raw, views, labels)
        losses["centre"] = cal_terms.centre_loss(raw.features, self.trainee.centres, labels)
        total = cal_terms.recognition_total(losses) + losses["centre"]
        if cells is not None:
            guided = self._guide(maps, cells, views_maps, views_cells, labels)
            if guided:
                total = total + attention_guidance.weighted(recipe.guidance, guided)
            losses.update({f"guide_{name}": value for name, value in guided.items()})
            if recipe.guidance.weight("prior"):
                losses["prior_share"] = total.new_tensor(self._share(place))
        cal_terms.update_centres(raw.features, self.trainee.centres, labels)
        with torch.no_grad():
            correct = (raw.logits.argmax(1) == labels).float().mean()
            losses["accuracy"] = correct
            losses.update(attention_guidance.watch(maps, cells, self._assignment()))
            per_image = nn.functional.cross_entropy(raw.logits.float(), labels, reduction="none")
        return {"loss": total, "per_image": per_image, **losses}

    def prepare(self, batch: Batch, place: Place) -> tuple[Tensor, Targets | None]:
        """Augmented pixels of the network, and the targets under the same transforms."""
        recipe, images, rows = self.settings, batch["image"], batch["row"]
        geometry = augment.draw_geometry(
            self.augmentation, images.shape[1], recipe.seed, place.epoch, rows
        )
        cut = augment.jitter(
            augment.warp_images(images, geometry),
            self.augmentation,
            recipe.seed,
            place.epoch,
            rows,
        )
        pixels = self.trainee.model.input_spec.prepare(cut)
        if "regions" not in batch:
            return pixels, None
        targets = Targets(
            augment.warp_targets(batch["regions"], geometry),
            augment.warp_targets(batch["heatmap"][:, None], geometry),
            attention_guidance.known_origin(batch["origin"], recipe.guidance.template),
        )
        return pixels, targets

    def _views(
        self, pixels: Tensor, shown: Tensor, targets: Targets | None, rows: Tensor, place: Place
    ) -> tuple[Tensor, Cells | None]:
        """The crops, then the drops, and their targets."""
        height, width = pixels.shape[2:]
        with torch.no_grad():
            draws = self._uniform(_THETA, place, rows, 2)
            theta = CROP_THETA[0] + (CROP_THETA[1] - CROP_THETA[0]) * draws[:, 0]
            boxes = crop_boxes(shown[:, :1], theta, CROP_PADDING, height, width)
            theta = DROP_THETA[0] + (DROP_THETA[1] - DROP_THETA[0]) * draws[:, 1]
            kept = kept_after_drop(shown[:, 1:], theta, height, width)
            images = torch.cat([crop(pixels, boxes, height, width), pixels * kept])
            if targets is None:
                return images, None
            cells = attention_guidance.join(
                attention_guidance.at_cells(
                    targets.cropped(boxes, height, width), self.side, self.side
                ),
                attention_guidance.at_cells(targets.masked(kept), self.side, self.side),
            )
        return images, cells

    def _pass(
        self,
        forward: Forward,
        pixels: Tensor,
        cells: Cells | None,
        rows: Tensor,
        place: Place,
        passes: tuple[int, ...],
    ) -> tuple[CalOutput, Tensor]:
        recipe, count = self.settings.guidance, self.trainee.heads * self.side**2
        shape = (len(pixels), self.trainee.heads, self.side, self.side)
        uniform = torch.cat([self._uniform(_FAKE + one, place, rows, count) for one in passes])
        draws = torch.cat([self._uniform(_DRAWS + one, place, rows, 2) for one in passes])
        mask = known = heatmap = share = None
        if cells is not None and recipe.weight("counterfactual"):
            mask, known = cells.mask, cells.known
        if cells is not None and recipe.weight("prior"):
            heatmap = cells.heatmap
            share = self._share(place) * cells.known.to(heatmap.dtype)[:, None, None, None]
        fake = fake_attention(uniform.view(shape), mask, known)
        *output, maps = forward(pixels, fake, draws, heatmap, share)
        return CalOutput(*output), maps

    def _guide(
        self,
        maps: Tensor,
        cells: Cells,
        views_maps: Tensor | None,
        views_cells: Cells | None,
        labels: Tensor,
    ) -> dict[str, Tensor]:
        """The methods' losses, mean over the passes."""
        count = len(labels)
        passes = [(maps, cells)]
        if views_maps is not None and views_cells is not None:
            for part in (slice(0, count), slice(count, None)):
                passes.append((views_maps[part], Cells(*(t[part] for t in views_cells))))
        found = [
            attention_guidance.guide(self.settings.guidance, one, targets, labels, self.listed)
            for one, targets in passes
        ]
        return {name: torch.stack([one[name] for one in found]).mean() for name in found[0]}

    def _assignment(self) -> tuple[int, ...]:
        return attention_guidance.heads_of(self.settings.guidance, self.trainee.heads)

    def _share(self, place: Place) -> float:
        return prior_share(self.settings.guidance.weight("prior"), place.step, place.steps)

    def _uniform(self, purpose: int, place: Place, rows: Tensor, count: int) -> Tensor:
        key = (self.settings.seed, place.epoch, purpose)
        return keyed_uniform(key, rows, count)
