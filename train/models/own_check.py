"""A user's network tried on a few faces before anything is computed with it.

A network that is used wrongly gives numbers all the same: with dropout at work, with BatchNorm over
the batch, with one embedding for everybody. Four faces, each by itself and all as a batch, show it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from faceguide.core.errors import ModelError
from faceguide.core.faces.align import template
from faceguide.train.models.input_spec import InputSpec
from faceguide.train.models.own_networks import OwnBackbone, fault_of, precision, raw_of

FACES = 4
TRIED = 16  # images among which four that differ are looked for
# Largest difference of two embeddings of one face, as a share of their length: of sums in another
# order, and of TF32 and half precision.
_ROUNDING, _COARSE = 1e-3, 2e-2
_SAME = 1e-6  # less than this differs by rounding only
_UNIT = 1e-2  # a length of 1 in half precision


def distinct(images: Tensor) -> Tensor:
    """Up to four images that differ from each other.

    Args:
        images: (N, S, S, 3) uint8.
    """
    chosen: list[Tensor] = []
    for image in images:
        if not any(torch.equal(image, one) for one in chosen):
            chosen.append(image)
        if len(chosen) == FACES:
            break
    return torch.stack(chosen)


@torch.no_grad()
def check_own(backbone: nn.Module, name: str, images: Tensor) -> None:
    """Try a network in eval mode; its mode and torch's random numbers stay as they are.

    Args:
        backbone: of `own_backbone`.
        images: (N, S, S, 3) uint8 RGB crops, N at least 1; four that differ are used.

    Raises:
        ModelError: when its forward fails, gives something else than embeddings, changes its
            input, gives the embedding of a face differently each time or in another batch, or one
            for all faces.
    """
    device = next((p.device for p in backbone.parameters()), torch.device("cpu"))
    spec: InputSpec = backbone.input_spec  # type: ignore[assignment]
    pixels = spec.prepare(distinct(images).to(device))
    points = None
    if getattr(backbone, "needs_keypoints", False):  # crops are aligned: they lie about there
        points = torch.as_tensor(template(spec.size) / spec.size, dtype=pixels.dtype, device=device)
    modes = {module: module.training for module in backbone.modules()}
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            backbone.eval()
            given = pixels.clone()
            together = _embed(backbone, name, given, points)
            changed = not torch.equal(given, pixels)
            again = _embed(backbone, name, pixels.clone(), points)
            singly = [_embed(backbone, name, one.clone(), points) for one in pixels.split(1)]
        finally:
            for module, training in modes.items():
                module.training = training
    if changed:
        raise ModelError(f"{name}: changes its input in place; begin its forward with a clone()")
    apart = torch.cat(singly)
    if not torch.isfinite(torch.stack([together, again, apart])).all():
        return  # said with the name of the face when it is met
    exact = device.type == "cpu" and not precision(backbone)
    if _apart(together, again) > (_ROUNDING if exact else _COARSE):
        raise ModelError(
            f"{name}: gives other embeddings of the same faces each time; in eval mode nothing may "
            "be drawn (functional.dropout needs training=self.training)"
        )
    if _apart(together, apart) > (_ROUNDING if exact else _COARSE):
        raise ModelError(
            f"{name}: the embedding of a face depends on the other faces of its batch; in eval "
            "mode nothing may be normalised by the batch"
        )
    if len(together) > 1 and all(_apart(one, together[:1]) <= _SAME for one in together.split(1)):
        raise ModelError(
            f"{name}: gives {len(together)} different faces the same embedding, so a score does "
            "not depend on the probe; are its weights loaded, and its pixels used?"
        )


def _apart(first: Tensor, second: Tensor) -> float:
    """Largest distance of two embeddings of a face, as a share of their length."""
    length = torch.maximum(first.norm(dim=1), second.norm(dim=1))
    return float(((first - second).norm(dim=1) / length.clamp_min(1e-30)).max())


def _embed(backbone: nn.Module, name: str, pixels: Tensor, points: Tensor | None) -> Tensor:
    """Raw embeddings (N, E), once what the network gave is what it may give."""
    beside = {} if points is None else {"keypoints": points.expand(len(pixels), -1, -1)}
    called = backbone.network if isinstance(backbone, OwnBackbone) else backbone
    try:
        found = called(pixels, **beside)
    except ModelError:  # said already
        raise
    except Exception as error:  # the forward is the user's
        count = f"{len(pixels)} image{'s' * (len(pixels) > 1)}"
        raise ModelError(
            f"{name}: its forward fails on {count} with {fault_of(error)}{precision(backbone)}"
        ) from None
    raw = raw_of(found, len(pixels), name)
    if isinstance(found, tuple):
        length = found[0].float().norm(dim=1)
        if bool(((length - 1).abs() > _UNIT).any()) or bool((found[1] <= 0).any()):
            raise ModelError(
                f"{name}: gives two tensors, which must be embeddings of length 1 and their norms "
                f"above 0; found lengths of {float(length.min()):.3g} to "
                f"{float(length.max()):.3g} and norms from {float(found[1].min()):.3g} on"
            )
    return raw
