"""`train oaml`: one step of AdaFace, QAConv with visibility, and the head that predicts it.

Source of the parts: Kim et al., "AdaFace", CVPR 2022; Liao and Shao, "Graph Sampling Based Deep
Metric Learning", CVPR 2022 (pairwise and triplet loss of the matcher). One forward gives the
embedding and the map; the gradients of all losses reach the backbone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from faceguide.core.errors import TrainError
from faceguide.train.data.two_streams import SECOND
from faceguide.train.distributed import summed, world_size
from faceguide.train.models.backbones.backbone import FaceBackbone, keypoints_of
from faceguide.train.models.margin_heads import MarginHead
from faceguide.train.models.matchers.qaconv import QAConv
from faceguide.train.models.occlusion_head import OcclusionHead
from faceguide.train.oaml.oaml_settings import OamlSettings
from faceguide.train.oaml.sampled_classes import SampledClasses, whole_softmax
from faceguide.train.training import Batch, Forward, Losses


class OamlTrainee(nn.Module):
    """All that is trained or kept with the weights.

    Args:
        head: the margin head; None with part "occlusion", as `matcher`. Without a kernel, its
            classes are sampled outside.
        classes: (labels,) int64, label of the cache → class, −1 where it is not trained.
    """

    classes: Tensor

    def __init__(
        self,
        backbone: FaceBackbone,
        occlusion_head: OcclusionHead,
        head: MarginHead | None,
        matcher: QAConv | None,
        classes: Tensor,
        settings: OamlSettings,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.occlusion_head = occlusion_head
        self.head = head
        self.matcher = matcher
        self.settings = settings
        self.register_buffer("classes", classes)
        if settings.part != "all":
            backbone.requires_grad_(False)

    def train(self, mode: bool = True) -> OamlTrainee:
        """Training mode, but for what is frozen: there BatchNorm must not move either."""
        super().train(mode)
        if self.settings.part != "all":
            self.backbone.eval()
        elif self.settings.freeze_norm:
            for module in self.backbone.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of a cache that `looked_at` needs."""
        return ("image", "landmarks") if self.backbone.needs_keypoints else ("image",)

    def beside(self, batch: Batch) -> dict[str, Tensor]:
        """What the backbone takes besides the pixels of rows of a cache."""
        if not self.backbone.needs_keypoints:
            return {}
        return {"keypoints": keypoints_of(batch["landmarks"])}

    def looked_at(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Maps (N, C, s, s) of rows of a cache, and the visibility (N, s, s) that is predicted."""
        pixels = self.backbone.input_spec.prepare(batch["image"])
        maps = self.backbone.feature_map(pixels, self.settings.map_size, **self.beside(batch))
        return maps, self.occlusion_head(maps)[:, 0]

    def forward(
        self, pixels: Tensor, labels: Tensor, seen: Tensor, known: Tensor, **beside: Tensor
    ) -> tuple[Tensor, ...]:
        """One pass over recognition images and, behind them, images for the occlusion loss only.

        Args:
            pixels: (N + M, 3, H, W).
            labels: (N,) classes of the first N.
            seen: (N, g, g) visibility of the first N; where it is not known, that of augmentation.
            known: (N,) bool, whether it is known; else the head's own prediction counts too.
            beside: `keypoints` (N + M, 5, 2) of a backbone that needs them.

        Returns:
            predicted visibility (N + M, h, w), and unless only the head is trained logits
            (N, classes), or embeddings (N, E) and norms (N, 1) where classes are sampled, and
            scores (N, N). A flat tuple: data-parallel wrappers keep it.
        """
        recipe = self.settings
        if self.head is None or self.matcher is None:
            with torch.no_grad():
                maps = self.backbone.feature_map(pixels, recipe.map_size, **beside)
            return (self.occlusion_head(maps)[:, 0],)
        output = self.backbone.forward_all(pixels, recipe.map_size, **beside)
        maps = output.feature_map
        predicted = self.occlusion_head(
            maps if recipe.occlusion_grad == "shared" else maps.detach()
        )[:, 0]
        count = len(labels)
        described: tuple[Tensor, ...] = output.embedding[:count], output.norm[:count]
        if self.head.kernel is not None:
            described = (self.head(*described, labels),)
        guess = nn.functional.interpolate(
            predicted[:count, None].detach().float(), seen.shape[1:], mode="nearest-exact"
        )[:, 0]
        # What augmentation has covered or cut off is occluded, whatever the head predicts.
        visibility = torch.where(known[:, None, None], seen, guess * seen)
        # Nothing is detached here: matching is to shape the maps that it compares.
        scores = self.matcher(maps[:count], maps[:count], visibility, visibility)
        return predicted, *described, scores


def pairwise_loss(scores: Tensor, same: Tensor) -> Tensor:
    """Binary cross-entropy of all pairs of two images; both kinds of pairs weigh one half.

    Args:
        scores: (N, N) logits.
        same: (N, N) bool, one identity.
    """
    losses = nn.functional.binary_cross_entropy_with_logits(
        scores.float(), same.float(), reduction="none"
    )
    genuine = same & ~torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    means = [(losses * kind).sum() / kind.sum().clamp_min(1) for kind in (genuine, ~same)]
    return 0.5 * (means[0] + means[1])


def triplet_loss(scores: Tensor, same: Tensor, margin: float) -> Tensor:
    """max(0, hardest impostor − hardest genuine + margin), mean over anchors that have both.

    Args:
        scores: (N, N), higher = more alike.
        same: (N, N) bool, one identity.
        margin: in units of the score.
    """
    values = scores.float()
    genuine = same & ~torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    far = values.masked_fill(~genuine, float("inf")).amin(1)
    near = values.masked_fill(same, -float("inf")).amax(1)
    both = genuine.any(1) & ~same.all(1)
    # Zeros in place of infinities: 0 · ∞ would make the gradient NaN.
    gap = torch.where(both, near, 0.0) - torch.where(both, far, 0.0) + margin
    return (torch.relu(gap) * both).sum() / both.sum().clamp_min(1)


def occlusion_loss(predicted: Tensor, true: Tensor, known: Tensor) -> Tensor:
    """Mean squared error over the faces whose visibility is known; 0 where none is.

    Known faces of all processes count alike: a process that has more of them weighs more, since
    data-parallel training takes the mean over processes.

    Args:
        predicted: (N, h, w).
        true: (N, g, g), brought to h × w by its mean over each cell.
        known: (N,) bool.
    """
    target = on_grid(true, predicted.shape[1])
    errors = (predicted.float() - target).square().mean((1, 2))
    world = world_size()
    count = summed(known.sum()) / world
    return (errors * known).sum() / count.clamp_min(1 / world)


def on_grid(visibility: Tensor, side: int) -> Tensor:
    """(N, g, g) visibility as means over the cells of another grid, (N, side, side) float32.

    Raises:
        TrainError: when the grid is coarser than asked for.
    """
    if visibility.shape[1] < side:
        raise TrainError(
            f"the cache keeps visibility on {visibility.shape[1]}×{visibility.shape[1]} cells, "
            f"{side}×{side} are needed; run `prep masks --grid 14 --overwrite`"
        )
    return nn.functional.adaptive_avg_pool2d(visibility.float()[:, None], side)[:, 0]


@dataclass(frozen=True)
class Views:
    """A batch as the networks see it: N images to recognise, then M of the second cache.

    images: (N + M, S, S, 3) uint8 after augmentation; visibility: (N + M, g, g), 1 = visible, where
    it is not known all ones but for what augmentation has occluded; known: (N + M,) bool; count: N;
    beside: keypoints (N + M, 5, 2), where the backbone needs them.
    """

    images: Tensor
    visibility: Tensor
    known: Tensor
    count: int
    beside: dict[str, Tensor]


def views(batch: Batch) -> Views:
    """The images of an augmented batch and, behind them, those of the second cache's."""
    prefixes = [""] + [SECOND] * (SECOND + "image" in batch)
    seen = [batch[prefix + "visibility"] for prefix in prefixes]
    side = min(part.shape[1] for part in seen)
    return Views(
        torch.cat([batch[prefix + "image"] for prefix in prefixes]),
        torch.cat([on_grid(part, side) for part in seen]),
        torch.cat([batch[prefix + "known"].bool() for prefix in prefixes]),
        len(batch["image"]),
        {
            name: torch.cat([batch[prefix + name] for prefix in prefixes])
            for name in ("keypoints",)
            if name in batch
        },
    )


@dataclass(frozen=True)
class OamlStep:
    """The step of `train oaml`, called by the loop.

    Attributes:
        trainee: for its table of classes; gradients flow through `forward`.
        sampled: the head over a sample of the classes, or None.
    """

    settings: OamlSettings
    trainee: OamlTrainee
    sampled: SampledClasses | None = None

    def __call__(self, forward: Forward, batch: Batch, step: int = 0) -> Losses:
        """See `Trainer.step`; the sample of classes depends on the number of steps done."""
        recipe, seen = self.settings, views(batch)
        pixels = self.trainee.backbone.input_spec.prepare(seen.images)
        labels, count = batch["label"], seen.count
        labels = self.trainee.classes[labels] if recipe.part != "occlusion" else labels
        predicted, *found = forward(
            pixels, labels, seen.visibility[:count], seen.known[:count], **seen.beside
        )
        losses = {"occlusion": occlusion_loss(predicted, seen.visibility, seen.known)}
        with torch.no_grad():
            losses |= _watch(predicted, seen)
            per_image = (predicted.float() - on_grid(seen.visibility, predicted.shape[1])).mean(
                (1, 2)
            )[:count]
        if recipe.part == "occlusion":
            return {"loss": losses["occlusion"], "per_image": per_image, **losses}
        *described, scores = found
        recognised = (
            whole_softmax(described[0], labels)
            if self.sampled is None
            else self.sampled(described[0], described[1], labels, step)
        )
        same = labels[:, None] == labels[None]
        losses["recognition"] = recognised.loss
        losses["pairwise"] = pairwise_loss(scores, same)
        losses["triplet"] = triplet_loss(scores, same, recipe.margin)
        total = recipe.occlusion_weight * losses["occlusion"]
        total = total + recipe.recognition_weight * losses["recognition"]
        total = total + recipe.pairwise_weight * losses["pairwise"]
        total = total + recipe.triplet_weight * losses["triplet"]
        with torch.no_grad():
            losses["accuracy"] = recognised.accuracy
            per_image = recognised.per_image + scores.float().sum(1)
        return {"loss": total, "per_image": per_image, **losses}


def _watch(predicted: Tensor, seen: Views) -> dict[str, Tensor]:
    """Overlap of predicted and true occluded cells, and the share of faces with a known mask."""
    true = on_grid(seen.visibility, predicted.shape[1])
    known = seen.known[:, None, None]
    found, hidden = (predicted < 0.5) & known, (true < 0.5) & known
    union = (found | hidden).sum()
    overlap = (found & hidden).sum() / union.clamp_min(1)
    return {
        "occlusion_iou": torch.where(union > 0, overlap, 1.0),
        "known_share": seen.known.float().mean(),
    }
