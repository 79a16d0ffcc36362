"""Change how layers pass gradients back, without touching the network.

DeepLIFT and LRP are backward passes with other derivatives. Hooks on modules miss every function
that is called without one (a ReLU written as torch.relu, an addition), silently; so calls are
intercepted where torch dispatches them, modules and functions alike. Weights, hooks and modes of
the network stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from faceguide.core.errors import AttributionError

# Functions of one tensor that work element by element.
ELEMENTWISE = frozenset(
    {
        *("relu", "relu_", "relu6", "hardtanh", "prelu", "leaky_relu", "elu", "selu", "celu"),
        *("sigmoid", "tanh", "softplus", "gelu", "silu", "mish", "hardswish", "hardsigmoid"),
    }
)
POOLING = frozenset({"max_pool2d", "max_pool2d_with_indices"})
PRODUCTS = frozenset({"mul", "mul_", "multiply", "__mul__", "__rmul__", "__imul__"})
QUOTIENTS = frozenset({"div", "div_", "divide", "true_divide", "__truediv__", "__rdiv__"})
# Refused where a method has no rule; a wrong number without a word would be worse than an error.
REFUSED = frozenset(
    {
        *("softmax", "log_softmax", "layer_norm", "group_norm", "instance_norm", "normalize"),
        *("scaled_dot_product_attention", "multi_head_attention_forward", "einsum"),
        *("adaptive_max_pool2d", "amax", "max", "sqrt", "rsqrt", "exp", "log", "pow", "norm"),
        *("vector_norm", "bmm", "matmul", "__matmul__", "baddbmm", "addmm", "cumprod", "prod"),
    }
)

Rule = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


class Rules(TorchFunctionMode):
    """Inside the block, calls of the named functions go to their rule.

    Args:
        rules: function name → rule; a rule gets the function, its arguments, and its keywords.
    """

    def __init__(self, rules: dict[str, Rule], method: str) -> None:
        super().__init__()
        self.rules, self.method = rules, method

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        rule = self.rules.get(name)
        if rule is not None:
            return rule(func, args, kwargs)
        # What is divided by a constant is linear.
        divided = name in QUOTIENTS and _tracked(args[:1] if name == "__rdiv__" else args[1:2])
        if divided or (name in REFUSED and _tracked(args)):
            raise AttributionError(
                f"{self.method} has no rule for {name}, which this network uses; it explains "
                "the networks of this package and those made of the same functions"
            )
        return func(*args, **kwargs)


def _tracked(args: tuple[Any, ...]) -> bool:
    """Whether the pixels reach this call."""
    return any(isinstance(value, Tensor) and value.requires_grad for value in args)


def both_tracked(args: tuple[Any, ...]) -> bool:
    """Whether two factors of a product depend on the pixels."""
    return (
        len(args) >= 2
        and all(isinstance(value, Tensor) for value in args[:2])
        and bool(args[0].requires_grad and args[1].requires_grad)
    )
