"""Layer-wise relevance propagation, right on PReLU networks and transformers (Bach et al., 2015).

Each layer z = W·x + b hands its relevance to its inputs by the generalised γ-rule (Andéol et al.,
2021), which, unlike the first γ-rule, allows inputs of either sign: contributions that agree in
sign with z count 1 + γ times. Activations pass relevance unchanged; a squeeze-and-excite gate
counts as a weight. The share of biases (and of BatchNorm's shift) ends there and is kept in the
books: Σ map + absorbed = the score, which is tested. The score is that of `deeplift`.

Transformers get the rules of AttnLRP (Achtibat et al., 2024): two signals that are multiplied share
the relevance evenly (propositions 3.2 and 3.3), softmax is expanded at its logits (3.1; its bias
absorbs), LayerNorm and the length of a vector count as weights (3.4), and GELU passes relevance
unchanged (equation 9). Constants that are added (positions, KP-RPE's bias) absorb their share.

The backward pass carries c = R / x instead of R, so no layer divides by its input. Not captum's
LRP: it refuses PReLU, and sees modules but not functions.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from faceguide.core.errors import AttributionError
from faceguide.evaluate.attribution.attribution_options import Settings
from faceguide.evaluate.attribution.methods.maps import Batch, Maps
from faceguide.evaluate.attribution.methods.propagation.attention_rules import (
    attention,
    bilinear,
    masked,
    named,
)
from faceguide.evaluate.attribution.methods.propagation.rules import (
    ELEMENTWISE,
    Rules,
    both_tracked,
)
from faceguide.evaluate.attribution.methods.target import PairScore, raw_embedding

_LEAST = 1e-12
# f(0) = 0, so relevance passes whole: c_x = c_z · f(x) / x.
_THROUGH_ZERO = ELEMENTWISE - {"sigmoid", "softplus", "hardsigmoid"}
_SUMS = {
    **dict.fromkeys(("add", "add_", "__add__", "__radd__", "__iadd__"), operator.add),
    **dict.fromkeys(("sub", "sub_", "__sub__", "__isub__"), operator.sub),
    **dict.fromkeys(("rsub", "__rsub__"), lambda one, other: other - one),
}

Linear = Callable[[Tensor, Tensor], Tensor]


class _Books:
    """Relevance that ended in biases, per sample."""

    def __init__(self) -> None:
        self.absorbed: Tensor | float = 0.0

    def add(self, relevance_in: Tensor, relevance_out: Tensor) -> None:
        self.add_ended(relevance_in)
        self.add_ended(-relevance_out)

    def add_ended(self, relevance: Tensor) -> None:
        self.absorbed = self.absorbed + relevance.double().flatten(1).sum(1)


def _share(relevance: Tensor, total: Tensor) -> Tensor:
    """relevance / total, 0 where the total is."""
    safe = total.abs() > _LEAST
    return torch.where(safe, relevance / torch.where(safe, total, 1.0), 0.0)


class _GammaRule(torch.autograd.Function):
    """A linear layer under the generalised γ-rule; backward turns R_z/z into R_x/x.

    What agrees in sign with z counts 1 + γ times. Of z = W·x + b that is (z ± (|W|·|x| + |b|)) / 2,
    so one more product with |W| gives all totals, and one with each transposed all shares. The bias
    has the shape in which it is added.
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
        leaf = x.detach().requires_grad_(True)
        with torch.enable_grad():
            product = linear(leaf, weight)
        z = product.detach().clone() if bias is None else product.detach() + bias
        ctx.save_for_backward(weight, bias, z)
        ctx.leaf, ctx.product, ctx.linear = leaf, product, linear
        ctx.gamma, ctx.books = gamma, books
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
            reach = reach + bias.abs()
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


class _Halved(torch.autograd.Function):
    """Two signals that are multiplied, each by half of the relevance: AttnLRP, equation 7."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, v: Tensor, function: Callable[..., Tensor]) -> Tensor:
        ctx.leaves = [one.detach().requires_grad_(True) for one in (u, v)]
        with torch.enable_grad():
            ctx.product = function(*ctx.leaves)
        product: Tensor = ctx.product.detach().clone()
        return product

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, carried: Tensor) -> tuple[Tensor, Tensor, None]:
        to_u, to_v = torch.autograd.grad(ctx.product, ctx.leaves, carried / 2)
        return to_u, to_v, None


class _Expanded(torch.autograd.Function):
    """A function as its first-order expansion at the input, whose bias absorbs what is left."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[Tensor], Tensor], books: _Books) -> Tensor:
        ctx.leaf, ctx.books = x.detach().requires_grad_(True), books
        with torch.enable_grad():
            ctx.found = function(ctx.leaf)
        found: Tensor = ctx.found.detach().clone()
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, carried: Tensor) -> tuple[Tensor, None, None]:
        (found,) = torch.autograd.grad(ctx.found, ctx.leaf, carried)
        ctx.books.add(carried * ctx.found.detach(), found * ctx.leaf.detach())
        return found, None, None


def _layer_norm(
    shape: tuple[int, ...], weight: Tensor | None, bias: Tensor | None, eps: float
) -> Callable[[Tensor], Tensor]:
    """LayerNorm that divides by a constant, the standard deviation of its input."""
    over = tuple(range(-len(shape), 0))

    def function(x: Tensor) -> Tensor:
        away = x - x.mean(over, keepdim=True)
        spread = (away.detach().square().mean(over, keepdim=True) + eps).sqrt()
        found = away / spread * (1.0 if weight is None else weight)
        return found if bias is None else found + bias

    return function


def _transformer_rules(books: _Books) -> dict[str, Any]:
    """The rules of AttnLRP, and that of constants."""

    def product(u: Tensor, v: Tensor, function: Callable[..., Tensor]) -> Tensor:
        found: Tensor = _Halved.apply(u, v, function)
        return found

    def expand(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        found: Tensor = _Expanded.apply(x, function, books)
        return found

    def soft(logits: Tensor, dim: int) -> Tensor:
        return expand(masked(logits), lambda x: x.softmax(dim))

    def softmax(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = named(("input", "dim"), args[:2], kwargs)
        return soft(given["input"], given["dim"])

    def layer_norm(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        names = ("input", "normalized_shape", "weight", "bias", "eps")
        given = named(names, args, kwargs)
        more = (given.get("weight"), given.get("bias"), given.get("eps", 1e-5))
        return expand(given["input"], _layer_norm(given["normalized_shape"], *more))

    def normalize(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = named(("input", "p", "dim", "eps"), args, kwargs)
        x = given["input"]
        length = x.detach().norm(given.get("p", 2.0), given.get("dim", 1), keepdim=True)
        return x / length.clamp_min(given.get("eps", 1e-12))

    def add(one: Any, other: Any) -> Any:
        return constant(torch.add, (one, other), {})

    def constant(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        found = func(*args, **kwargs)
        tracked = [isinstance(one, Tensor) and one.requires_grad for one in args[:2]]
        if sum(tracked) != 1:
            return found  # of two signals each keeps its share, as x · c does
        # The sum without the signal.
        one, other = (0.0 if hit else term for term, hit in zip(args, tracked, strict=False))
        alone = _SUMS[func.__name__](one, other * kwargs.get("alpha", 1))
        found.register_hook(lambda carried: books.add_ended(carried * alone))
        return found

    return {
        **bilinear(product, both_tracked),
        **dict.fromkeys(_SUMS, constant),
        "softmax": softmax,
        "layer_norm": layer_norm,
        "normalize": normalize,
        "scaled_dot_product_attention": attention(product, soft, add),
    }


def _rules(gamma: float, books: _Books) -> dict[str, Any]:
    def conv2d(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        given = named(names, args, kwargs)
        x, weight, bias = given.pop("input"), given.pop("weight"), given.pop("bias", None)
        bias = bias if bias is None else bias[:, None, None]

        def linear(value: Tensor, matrix: Tensor) -> Tensor:
            return functional.conv2d(value, matrix, None, **given)

        return _GammaRule.apply(x, weight, bias, linear, gamma, books)

    def dense(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = named(("input", "weight", "bias"), args, kwargs)
        return _GammaRule.apply(
            given["input"], given["weight"], given.get("bias"), functional.linear, gamma, books
        )

    def batch_norm(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum")
        given = named((*names, "eps"), args, kwargs)
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

        return _GammaRule.apply(x, scale, shift.reshape(shape), linear, gamma, books)

    def activation(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        kwargs = {name: value for name, value in kwargs.items() if name != "inplace"}
        return _Pass.apply(args[0], lambda x: func(x.clone(), *args[1:], **kwargs))

    def gate(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # A gate decides how much passes; what passes is the signal, which keeps the relevance.
        return func(args[0].detach(), *args[1:], **kwargs)

    return {
        "conv2d": conv2d,
        "linear": dense,
        "batch_norm": batch_norm,
        **dict.fromkeys(_THROUGH_ZERO, activation),
        **dict.fromkeys(("sigmoid", "hardsigmoid"), gate),
        **_transformer_rules(books),
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
