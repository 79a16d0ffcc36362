"""Layer-wise relevance propagation, right on PReLU networks (Bach et al., 2015).

Each layer z = W·x + b hands its relevance to its inputs by the generalised γ-rule (Andéol et al.,
2021), which, unlike the first γ-rule, allows inputs of either sign: contributions that agree in
sign with z count 1 + γ times. Activations pass relevance unchanged; a squeeze-and-excite gate
counts as a weight. The share of biases (and of BatchNorm's shift) ends there and is kept in the
books: Σ map + absorbed = the score, which is tested. The score is that of `deeplift`.

The backward pass carries c = R / x instead of R, so no layer divides by its input. Not captum's
LRP: it refuses PReLU, and sees modules but not functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from faceguide.core.errors import AttributionError
from faceguide.evaluate.attribution.attribution_options import Settings
from faceguide.evaluate.attribution.methods.maps import Batch, Maps
from faceguide.evaluate.attribution.methods.propagation.rules import (
    ELEMENTWISE,
    PRODUCTS,
    Rules,
    both_tracked,
)
from faceguide.evaluate.attribution.methods.target import PairScore, raw_embedding

_LEAST = 1e-12
# f(0) = 0, so relevance passes whole: c_x = c_z · f(x) / x.
_THROUGH_ZERO = ELEMENTWISE - {"sigmoid", "softplus", "hardsigmoid"}

Linear = Callable[[Tensor, Tensor], Tensor]


class _Books:
    """Relevance that ended in biases, per sample."""

    def __init__(self) -> None:
        self.absorbed: Tensor | float = 0.0

    def add(self, relevance_in: Tensor, relevance_out: Tensor) -> None:
        total = relevance_in.double().flatten(1).sum(1) - relevance_out.double().flatten(1).sum(1)
        self.absorbed = self.absorbed + total


def _share(relevance: Tensor, total: Tensor) -> Tensor:
    """relevance / total, 0 where the total is."""
    safe = total.abs() > _LEAST
    return torch.where(safe, relevance / torch.where(safe, total, 1.0), 0.0)


class _GammaRule(torch.autograd.Function):
    """A linear layer under the generalised γ-rule; backward turns R_z/z into R_x/x.

    What agrees in sign with z counts 1 + γ times. Of z = W·x + b that is (z ± (|W|·|x| + |b|)) / 2,
    so one more product with |W| gives all totals, and one with each transposed all shares.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        linear: Linear,
        gamma: float,
        books: _Books,
    ) -> Tensor:
        # The bias as it is added to an output: along dimension 1.
        shape = (1, -1) + (1,) * (x.ndim - 2)
        leaf = x.detach().requires_grad_(True)
        with torch.enable_grad():
            product = linear(leaf, weight)
        z = product.detach().clone() if bias is None else product.detach() + bias.reshape(shape)
        ctx.save_for_backward(weight, bias, z)
        ctx.leaf, ctx.product, ctx.linear = leaf, product, linear
        ctx.gamma, ctx.books, ctx.bias_shape = gamma, books, shape
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, carried: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        weight, bias, z = ctx.saved_tensors
        x, half, sign = ctx.leaf.detach(), ctx.gamma / 2, z.sign()
        leaf = x.abs().requires_grad_(True)
        with torch.enable_grad():
            product = ctx.linear(leaf, weight.abs())
        reach = product.detach()
        if bias is not None:
            reach = reach + bias.abs().reshape(ctx.bias_shape)
        relevance = carried * z
        share = _share(relevance, z + half * (z + sign * reach))
        (plain,) = torch.autograd.grad(ctx.product, ctx.leaf, share)
        (sized,) = torch.autograd.grad(product, leaf, sign * share)
        found = (1 + half) * plain + half * torch.where(x >= 0, sized, -sized)
        ctx.books.add(relevance, found * x)
        return found, None, None, None, None, None


class _Pass(torch.autograd.Function):
    """An activation with f(0) = 0: relevance passes whole, c_x = c_z · f(x) / x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        y = function(x)
        ratio = y / torch.where(x == 0, torch.ones_like(x), x)
        ctx.save_for_backward(torch.where(x == 0, torch.zeros_like(x), ratio))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, carried: Tensor) -> tuple[Tensor, None]:
        (ratio,) = ctx.saved_tensors
        return carried * ratio, None


def _rules(gamma: float, books: _Books) -> dict[str, Any]:
    def conv2d(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        x, weight, bias = given.pop("input"), given.pop("weight"), given.pop("bias", None)

        def linear(value: Tensor, matrix: Tensor) -> Tensor:
            return functional.conv2d(value, matrix, None, **given)

        return _GammaRule.apply(x, weight, bias, linear, gamma, books)

    def dense(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = {**dict(zip(("input", "weight", "bias"), args, strict=False)), **kwargs}
        return _GammaRule.apply(
            given["input"], given["weight"], given.get("bias"), functional.linear, gamma, books
        )

    def batch_norm(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum")
        given = {**dict(zip((*names, "eps"), args, strict=False)), **kwargs}
        x, mean, var = given["input"], given["running_mean"], given["running_var"]
        if given.get("training") or mean is None:
            raise AttributionError("LRP needs BatchNorm in eval mode with running statistics")
        scale = (var + given.get("eps", 1e-5)).rsqrt()
        if given.get("weight") is not None:
            scale = scale * given["weight"]
        shift = -mean * scale
        if given.get("bias") is not None:
            shift = shift + given["bias"]
        shape = (1, -1) + (1,) * (x.ndim - 2)

        def linear(value: Tensor, matrix: Tensor) -> Tensor:
            return value * matrix.reshape(shape)

        return _GammaRule.apply(x, scale, shift, linear, gamma, books)

    def activation(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        kwargs = {name: value for name, value in kwargs.items() if name != "inplace"}
        return _Pass.apply(args[0], lambda x: func(x.clone(), *args[1:], **kwargs))

    def gate(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # A gate decides how much passes; what passes is the signal, which keeps the relevance.
        return func(args[0].detach(), *args[1:], **kwargs)

    def product(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if both_tracked(args):
            raise AttributionError(
                "LRP has no rule for a product of two signals without a sigmoid gate"
            )
        return func(*args, **kwargs)

    return {
        "conv2d": conv2d,
        "linear": dense,
        "batch_norm": batch_norm,
        **dict.fromkeys(_THROUGH_ZERO, activation),
        **dict.fromkeys(("sigmoid", "hardsigmoid"), gate),
        **dict.fromkeys(PRODUCTS, product),
    }


def propagate(
    function: Callable[[Tensor], Tensor], output_weight: Tensor, probe: Tensor, gamma: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Relevance of the pixels for Σ_e output_e · weight_e.

    Args:
        function: (N, …) → (N, E) or any (N, …), made of the functions that there are rules for.
        output_weight: as the output.
        probe: (N, …).
        gamma: of the γ-rule; 0 is LRP-0, Gradient×Input on piecewise linear networks.

    Returns:
        Relevance (N, …), relevance absorbed by biases (N,) and the score (N,), in float64.
    """
    books = _Books()
    leaf = probe.detach().requires_grad_(True)
    with torch.enable_grad(), Rules(_rules(gamma, books), "LRP"):
        output = function(leaf)
    (carried,) = torch.autograd.grad(output, leaf, output_weight)
    claimed = (output.detach().double() * output_weight.double()).flatten(1).sum(1)
    absorbed = torch.zeros_like(claimed) + books.absorbed
    return carried * leaf.detach(), absorbed, claimed


def lrp(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """Relevance of the pixels for the projection, summed over channels."""
    score.require_embedding("LRP explains the product of two embeddings")
    raw = []

    def embedded(pixels: Tensor) -> Tensor:
        found = raw_embedding(score.backbone, pixels, *score.beside(batch.reference))
        raw.append(found.detach())
        return found

    relevance, absorbed, claimed = propagate(
        embedded, batch.reference[0], batch.probe, settings.lrp_gamma
    )
    # Relevance is proportional to what is explained, so the fixed length may come last.
    length = raw[0].norm(dim=1).clamp_min(1e-12)
    return Maps(relevance.sum(1) / length[:, None, None], claimed / length, absorbed / length)
