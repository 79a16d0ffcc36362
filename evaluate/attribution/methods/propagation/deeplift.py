"""DeepLIFT's rescale rule, right on PReLU networks (Shrikumar et al., 2017).

Not captum's: it has no rule for PReLU and passes its plain gradient without a word; on IR networks
the sum then misses the change of the score by as much as the change itself. Here every elementwise
nonlinearity f passes Δf(z)/Δz, a max pooling gives each difference to the larger of the two
winners, and a product of two signals (squeeze-and-excite, attention) is split evenly, so
Σ map = s(x) − s(b). Softmax is exp(x − log Σ exp x) and LayerNorm and lengths are products with
one over a root, each step by the same rules.

The score explained is ⟨g(x), reference⟩ / ‖g(probe)‖ with the raw embedding g and the length held
fixed: the length would couple all cells, and no rule covers it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from faceguide.core.errors import AttributionError
from faceguide.evaluate.attribution.attribution_options import Settings
from faceguide.evaluate.attribution.methods.maps import Batch, Maps, baseline_for
from faceguide.evaluate.attribution.methods.propagation.attention_rules import (
    attention,
    bilinear,
    masked,
    named,
)
from faceguide.evaluate.attribution.methods.propagation.rules import (
    ELEMENTWISE,
    POOLING,
    Rule,
    Rules,
    both_tracked,
)
from faceguide.evaluate.attribution.methods.target import PairScore, raw_embedding

_LEAST = 1e-7  # of Δz next to |z|; below it the derivative takes the place of the quotient


def _halves(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """The probes' and the baselines' half of a joint batch."""
    half = len(tensor) // 2
    return tensor[:half], tensor[half:]


class _Rescale(torch.autograd.Function):
    """An elementwise function whose derivative is that of the chord."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        y = function(z)
        (z_x, z_b), (y_x, y_b) = _halves(z), _halves(y)
        change = z_x - z_b
        tiny = change.abs() <= _LEAST * (z_x.abs() + z_b.abs()) + 1e-30
        slope = (y_x - y_b) / torch.where(tiny, torch.ones_like(change), change)
        if tiny.any():
            with torch.enable_grad():
                leaf = z_x.detach().requires_grad_(True)
                (local,) = torch.autograd.grad(function(leaf).sum(), leaf)
            slope = torch.where(tiny, local, slope)
        ctx.save_for_backward(slope)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return gradient * torch.cat([slope, slope]), None


class _RescalePool(torch.autograd.Function):
    """Max pooling: the difference goes to the larger winner of the two.

    If the probe's maximum is larger, its own place changed by at least as much, and conversely,
    so the multiplier lies between 0 and 1.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, function: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
        y, place = function(z)
        (y_x, y_b), (place_x, place_b) = _halves(y), _halves(place)
        winner = torch.where(y_x >= y_b, place_x, place_b).flatten(2)
        z_x, z_b = (part.flatten(2) for part in _halves(z))
        change = z_x.gather(2, winner) - z_b.gather(2, winner)
        outputs = (y_x - y_b).flatten(2)
        safe = torch.where(change == 0, torch.ones_like(change), change)
        ctx.save_for_backward(winner, outputs / safe)
        ctx.shape = z.shape
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        winner, slope = ctx.saved_tensors
        flat = gradient.flatten(2) * torch.cat([slope, slope])
        out = gradient.new_zeros(ctx.shape).flatten(2)
        out.scatter_add_(2, torch.cat([winner, winner]), flat)
        return out.reshape(ctx.shape), None


class _RescaleProduct(torch.autograd.Function):
    """A bilinear u·v: Δ(uv) = Δu · mean(v) + mean(u) · Δv, the means over probe and baseline."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, v: Tensor, function: Callable[..., Tensor]) -> Tensor:
        means = []
        for factor in (u, v):
            first, second = _halves(factor.detach())
            mean = (first + second) / 2
            means.append(torch.cat([mean, mean]))
        ctx.save_for_backward(*means)
        ctx.function = function
        return function(u, v)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        leaves = [mean.detach().requires_grad_(True) for mean in ctx.saved_tensors]
        with torch.enable_grad():
            product = ctx.function(*leaves)
        to_u, to_v = torch.autograd.grad(product, leaves, gradient)
        return to_u, to_v, None


def _elementwise(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not args or not args[0].requires_grad:
        return func(*args, **kwargs)
    kwargs = {name: value for name, value in kwargs.items() if name != "inplace"}
    # A copy, because some of these functions may work in place.
    return _Rescale.apply(args[0], lambda z: func(z.clone(), *args[1:], **kwargs))


def _pooling(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not args[0].requires_grad:
        return func(*args, **kwargs)
    kwargs = {name: value for name, value in kwargs.items() if name != "return_indices"}

    def pool(z: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = torch.nn.functional.max_pool2d_with_indices(
            z, *args[1:], **kwargs
        )
        return found

    return _RescalePool.apply(args[0], pool)


def _product(u: Tensor, v: Tensor, function: Callable[..., Tensor]) -> Tensor:
    found: Tensor = _RescaleProduct.apply(u, v, function)
    return found


def _chord(z: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    found: Tensor = _Rescale.apply(z, function)
    return found


def _soft(logits: Tensor, dim: int) -> Tensor:
    """exp(x − log Σ exp x), in float64, where exp(x) of both halves has room."""
    x = masked(logits).double()
    # One number for both halves, so that it is a constant.
    most = torch.stack(_halves(x.detach())).amax(0).amax(dim, keepdim=True)
    away = x - torch.cat([most, most])
    total = _chord(_chord(away, torch.exp).sum(dim, keepdim=True), torch.log)
    return _chord(away - total, torch.exp).to(logits.dtype)


def _softmax(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    given = named(("input", "dim"), args[:2], kwargs)
    return _soft(given["input"], given["dim"])


def _over_root(x: Tensor, power: Tensor, least: float) -> Tensor:
    """x / √(power + least)."""
    return _product(x, _chord(power, lambda p: (p + least).rsqrt()), torch.mul)


def _layer_norm(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    given = named(("input", "normalized_shape", "weight", "bias", "eps"), args, kwargs)
    x, over = given["input"], tuple(range(-len(given["normalized_shape"]), 0))
    away = x - x.mean(over, keepdim=True)
    spread = _chord(away, torch.square).mean(over, keepdim=True)
    found = _over_root(away, spread, given.get("eps", 1e-5))
    weight, bias = given.get("weight"), given.get("bias")
    found = found if weight is None else found * weight
    return found if bias is None else found + bias


def _normalize(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    given = named(("input", "p", "dim", "eps"), args, kwargs)
    if given.get("p", 2.0) != 2:
        raise AttributionError("DeepLIFT has no rule for normalize with p other than 2")
    x, least = given["input"], given.get("eps", 1e-12)
    power = _chord(x, torch.square).sum(given.get("dim", 1), keepdim=True)
    return _over_root(x, power, least**2)


RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(POOLING, _pooling),
    **bilinear(_product, both_tracked),
    "softmax": _softmax,
    "layer_norm": _layer_norm,
    "normalize": _normalize,
    "scaled_dot_product_attention": attention(_product, _soft, torch.add),
}


def multipliers(
    function: Callable[[Tensor], Tensor], probe: Tensor, baseline: Tensor
) -> tuple[Tensor, Tensor]:
    """DeepLIFT multipliers of a network.

    Args:
        function: (M, …) → (M,), made of the functions that there are rules for.
        probe: (N, …).
        baseline: (N, …).

    Returns:
        Multipliers (N, …), and function(probe) − function(baseline), (N,).
    """
    joint = torch.cat([probe, baseline]).detach().requires_grad_(True)
    with torch.enable_grad(), Rules(RULES, "DeepLIFT"):
        values = function(joint)
    first, second = _halves(values)
    (gradient,) = torch.autograd.grad(first.sum(), joint)
    return _halves(gradient)[0], (first - second).detach()


def deeplift(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """(x − b) ⊙ multipliers, summed over channels; Σ map is the change of the projection."""
    score.require_embedding("DeepLIFT explains the product of two embeddings")
    both = torch.cat([batch.reference[0], batch.reference[0]])
    baseline = baseline_for(score, batch, settings.baseline)
    raw, beside = [], tuple(torch.cat([one, one]) for one in score.beside(batch.reference))

    def projected(pixels: Tensor) -> Tensor:
        found = raw_embedding(score.backbone, pixels, *beside)
        raw.append(found.detach())
        return (found * both).sum(1)

    factors, change = multipliers(projected, batch.probe, baseline)
    # The length is held fixed, so it may be divided by afterwards.
    length = _halves(raw[0])[0].norm(dim=1).clamp_min(1e-12)
    values = (factors * (batch.probe - baseline)).sum(1)
    return Maps(values / length[:, None, None], change / length)
