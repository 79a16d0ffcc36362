"""What bench/occlusion.py trains, on identities that it does not test."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from occlusion_faces import Faces
from torch import Tensor, nn

from faceguide.evaluate.metrics.roc import measure, rank
from faceguide.train.models import create
from faceguide.train.models.backbones.mobilefacenet import MobileFaceNet
from faceguide.train.models.matchers.qaconv import Matches, QAConv
from faceguide.train.models.matchers.visible_embedding import VisibleEmbedding
from faceguide.train.models.occlusion_head import OcclusionHead

IMPOSTORS = 8000
PULLS = (0.003, 0.03, 0.3, 3.0)
RATE = 0.05


def all_matches(matcher: QAConv, probe: Faces, gallery: Faces, block: int = 8) -> Matches:
    """Best matches of every pair, in blocks of probes."""
    parts = []
    with torch.inference_mode():
        for start in range(0, len(probe.maps), block):
            rows = slice(start, start + block)
            parts.append(
                matcher.matches(
                    probe.maps[rows], gallery.maps, probe.visibility[rows], gallery.visibility
                )
            )
    best_p, best_g = (torch.cat([part[k] for part in parts]) for k in (0, 1))
    if parts[0].probe_weights is None:
        return Matches(best_p, best_g)
    weights = [torch.cat([part[k].expand(part[0].shape) for part in parts]) for k in (2, 3)]
    return Matches(best_p, best_g, *weights)


def train_locations(matcher: QAConv, probe: Faces, gallery: Faces) -> tuple[QAConv, float]:
    """The 49 location weights, the bias and the affine BatchNorms: pairwise cross-entropy.

    A few hundred genuine pairs do not hold 49 weights: they are pulled towards equal ones, by one
    of `PULLS`, that with the largest AUC on the training identities that a half of them does not
    teach. Returns the matcher and the pull.
    """
    same = torch.from_numpy(probe.person[:, None] == gallery.person[None])
    other = torch.tensor(
        [[a != b for b in gallery.name] for a in probe.name]
    )  # an image with itself is no pair
    matches = all_matches(matcher, probe, gallery)
    # All genuine pairs and so many others; more of them only cost time.
    generator = torch.Generator().manual_seed(0)
    impostors = (~same & other).nonzero()
    impostors = impostors[torch.randperm(len(impostors), generator=generator)[:IMPOSTORS]]
    rows, columns = torch.cat([(same & other).nonzero(), impostors]).T
    picked = Matches(*(None if part is None else part[rows, columns].clone() for part in matches))
    target = same[rows, columns].float()
    half_p = torch.from_numpy(probe.person % 2)[rows]
    half_g = torch.from_numpy(gallery.person % 2)[columns]
    found = []
    for pull in PULLS:
        aucs = []
        for half in (0, 1):
            learn = (half_p == half) & (half_g == half)
            judge = (half_p != half) & (half_g != half)
            tried = _fit_locations(matcher, _at(picked, learn), target[learn], pull)
            with torch.inference_mode():
                scores = tried.score(_at(picked, judge)).numpy()
            aucs.append(measure(rank(scores, target[judge].bool().numpy())).auc)
        found.append(sum(aucs))
    pull = PULLS[int(np.argmax(found))]
    return _fit_locations(matcher, picked, target, pull), pull


def _at(matches: Matches, rows: Tensor) -> Matches:
    return Matches(*(None if part is None else part[rows] for part in matches))


def _fit_locations(
    matcher: QAConv, matches: Matches, target: Tensor, pull: float, steps: int = 200
) -> QAConv:
    torch.manual_seed(0)
    matcher = copy.deepcopy(matcher)
    cells = matcher.fc.weight.shape[1]
    # As many impostors as genuine pairs in weight; their number would drown the genuine ones.
    weight = torch.where(target > 0, 0.5 / target.sum(), 0.5 / (1 - target).sum())
    matcher.train()
    location = matcher.fc.weight
    others = [parameter for parameter in matcher.parameters() if parameter is not location]
    # Adam's steps are as large as its rate, and a location weight is about 1/49.
    groups = [{"params": [location], "size": 1 / cells}, {"params": others, "size": 1.0}]
    optimiser = torch.optim.Adam(groups, lr=RATE)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = RATE * group["size"] * 0.5 * (1 + np.cos(np.pi * step / steps))
        loss = nn.functional.binary_cross_entropy_with_logits(
            matcher.score(matches), target, weight, reduction="sum"
        )
        loss = loss + pull * (location * cells - 1.0).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return matcher.eval()


def train_tail(
    backbone: MobileFaceNet,
    mean: Tensor,
    covered: Faces,
    clean: Faces,
    *,
    visible: bool,
    steps: int = 300,
    batch: int = 48,
    rate: float = 1e-3,
    scale: float = 40.0,
    keep: float = 0.0,
) -> MobileFaceNet:
    """The last linear layer (1×1 convolution, 512 → 128), by contrast under drawn covers.

    A batch holds one covered image of each of `batch` identities and one clean image, another one
    where there is one; with `visible` each pair is compared by the cells that both show.
    """
    rng = np.random.default_rng(0)
    backbone = copy.deepcopy(backbone).eval().requires_grad_(False)
    weight = backbone.conv3.weight.requires_grad_(True)
    start = weight.detach().clone()
    optimiser = torch.optim.Adam([weight], lr=rate)
    people = np.unique(clean.person)
    of = {person: np.flatnonzero(clean.person == person) for person in people}
    of_covered = {person: np.flatnonzero(covered.person == person) for person in people}
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = rate * 0.5 * (1 + np.cos(np.pi * step / steps))
        chosen = rng.choice(people, batch, replace=False)
        one = np.array([rng.choice(of_covered[person]) for person in chosen])
        other = []
        for person, place in zip(chosen, one, strict=True):
            images = [i for i in of[person] if clean.name[i] != covered.name[place]]
            other.append(rng.choice(images or of[person]))
        a, b = covered.at(one), clean.at(other)
        tail = backbone.linear_tail()
        offset = -torch.einsum("cs,sce->se", mean.flatten(1), tail.weight)
        matcher = VisibleEmbedding(tail.weight, offset)
        if visible:
            score = matcher(a.maps, b.maps, a.visibility, b.visibility)
        else:
            score = matcher(a.maps, b.maps)
        target = torch.arange(batch)
        loss = nn.functional.cross_entropy(score * scale, target)
        loss = loss + nn.functional.cross_entropy(score.T * scale, target)
        loss = loss + keep * (weight - start).square().sum() / start.square().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return backbone.requires_grad_(False)


def train_head(faces: Faces, channels: int, epochs: int = 4) -> OcclusionHead:
    """The visibility head alone, on frozen maps: squared error, Adam."""
    torch.manual_seed(0)
    head: OcclusionHead = create("occlusion_head", channels=channels)
    optimiser = torch.optim.Adam(head.parameters(), lr=2e-3, weight_decay=1e-4)
    steps = epochs * (len(faces.maps) // 64)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 2e-3 * 0.5 * (1 + np.cos(np.pi * step / steps))
        inside = step % (len(faces.maps) // 64)
        if inside == 0:
            order = torch.randperm(len(faces.maps))
        rows = order[inside * 64 : (inside + 1) * 64]
        found = head(faces.maps[rows].float())[:, 0]
        loss = (found - faces.visibility[rows]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return head.eval()


def kept_head(path: Path, faces: Faces) -> OcclusionHead:
    """The visibility head; training it is the longest part, so --work keeps it."""
    if not path.exists():
        torch.save(train_head(faces, 512).state_dict(), path)
    head = create("occlusion_head", channels=512)
    head.load_state_dict(torch.load(path, weights_only=True))
    return head.eval()


@torch.inference_mode()
def predicted(head: OcclusionHead, faces: Faces) -> Faces:
    """The same faces with the head's visibility."""
    seen = torch.cat([head(maps.float())[:, 0] for maps in faces.maps.split(256)])
    return Faces(faces.maps, seen, faces.person, faces.name)


def projected(matcher: VisibleEmbedding, faces: Faces) -> Faces:
    """Cells in the metric of the embedding: (N, E, 7, 7)."""
    with torch.inference_mode():
        terms = torch.cat([matcher.cell_terms(maps) for maps in faces.maps.split(256)])
    maps = terms.transpose(1, 2).unflatten(2, (7, 7)).half()
    return Faces(maps, faces.visibility, faces.person, faces.name)
