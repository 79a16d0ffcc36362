"""Softmax attention and norms in parts that LRP and DeepLIFT have rules for.

What is fused for speed is written out: attention as two products around a softmax, and the norms
as what they do to each number, given the length or the spread that they divide by.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from faceguide.core.errors import AttributionError
from faceguide.evaluate.attribution.methods.propagation.rules import PRODUCTS, Rule

# A logit as low as this gets no attention; −∞ itself has no difference to −∞.
_LEAST_LOGIT = -1e4

Product = Callable[[Tensor, Tensor, Callable[[Tensor, Tensor], Tensor]], Tensor]


def named(names: tuple[str, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a call by name."""
    return {**dict(zip(names, args, strict=False)), **kwargs}


def masked(logits: Tensor) -> Tensor:
    """Logits whose −∞ are finite."""
    return logits.clamp_min(_LEAST_LOGIT)


def attention(
    product: Product, softmax: Callable[[Tensor, int], Tensor], add: Callable[..., Tensor]
) -> Rule:
    """The rule of scaled_dot_product_attention, from those of its parts.

    Args:
        product: of two tensors that both depend on the pixels, by a bilinear function.
        softmax: of logits, over a dimension.
        add: a constant to the logits.
    """
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")

    def rule(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        given = named(names, args, kwargs)
        query, key, value = given["query"], given["key"], given["value"]
        for option in ("dropout_p", "is_causal", "enable_gqa"):
            if given.get(option):
                raise AttributionError(f"no rule for attention with {option}")
        scale = given.get("scale")
        scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
        logits = product(query, key.transpose(-2, -1), torch.matmul) * scale
        mask = given.get("attn_mask")
        if mask is not None:
            if mask.dtype == torch.bool:
                mask = torch.where(mask, 0.0, -torch.inf)
            logits = add(logits, masked(mask))
        return product(softmax(logits, -1), value, torch.matmul)

    return rule


def bilinear(product: Product, both: Callable[..., bool]) -> dict[str, Rule]:
    """Rules of the products of two tensors by name.

    Args:
        product: of two tensors that both depend on the pixels.
        both: tells from the factors whether they do.
    """

    def times(function: Callable[[Tensor, Tensor], Tensor]) -> Rule:
        def rule(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return product(args[0], args[1], function) if both(args) else func(*args, **kwargs)

        return rule

    def einsum(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        equation, *factors = args
        factors = list(factors[0]) if isinstance(factors[0], list | tuple) else factors
        if not both(tuple(factors)):
            return func(*args, **kwargs)
        if len(factors) > 2:
            raise AttributionError("no rule for einsum of more than two tensors")
        return product(factors[0], factors[1], lambda u, v: torch.einsum(equation, u, v))

    matrices = ("matmul", "__matmul__", "bmm")
    return {
        **dict.fromkeys(PRODUCTS, times(torch.mul)),
        **dict.fromkeys(matrices, times(torch.matmul)),
        "einsum": einsum,
    }
