"""Every model by its command-line name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from faceguide.core.errors import CheckpointError, ModelError
from faceguide.train.models.backbones.edgeface import SIZES, EdgeFace
from faceguide.train.models.backbones.inception_resnet import InceptionResnetV1
from faceguide.train.models.backbones.ir import IR
from faceguide.train.models.backbones.mbf import ArcFaceMobileFaceNet
from faceguide.train.models.backbones.mobilefacenet import MobileFaceNet
from faceguide.train.models.backbones.vit import ViT
from faceguide.train.models.cal_network import WSDANCAL
from faceguide.train.models.margin_heads import AdaFace, ArcFace, CosFace
from faceguide.train.models.matchers.qaconv import QAConv
from faceguide.train.models.occlusion_head import OcclusionHead

__all__ = ["BACKBONES", "MODELS", "CheckpointError", "ModelError", "blank", "create", "outline"]

MODELS: dict[str, Callable[..., nn.Module]] = {
    "mobilefacenet": MobileFaceNet,
    **{f"ir_{depth}": functools.partial(IR, depth) for depth in (18, 34, 50, 101)},
    "ir_se_50": functools.partial(IR, 50, True),
    **{
        f"iresnet_{depth}": functools.partial(IR, depth, arcface=True)
        for depth in (18, 34, 50, 100, 200)
    },
    "mbf": ArcFaceMobileFaceNet,
    "mbf_large": functools.partial(ArcFaceMobileFaceNet, (2, 8, 12, 4), 4),
    **{f"edgeface_{size}": functools.partial(EdgeFace, size) for size in SIZES},
    "edgeface_xs_gamma_06": functools.partial(EdgeFace, "xs", 0.6),
    "edgeface_s_gamma_05": functools.partial(EdgeFace, "s", 0.5),
    "inception_resnet_v1": InceptionResnetV1,
    "vit_tiny": functools.partial(ViT, 192, 12, 3, 16),
    "vit_t": functools.partial(ViT, 256, 12, 8),
    "vit_s": functools.partial(ViT, 512, 12, 8),
    "vit_b": functools.partial(ViT, 512, 24, 8),
    "vit_l": functools.partial(ViT, 768, 24, 8),
    "vit_h": functools.partial(ViT, 1024, 48, 8),
    "cvlface_vit_small": functools.partial(ViT, 512, 12, 8, 8, 5, False),
    "cvlface_vit_base": functools.partial(ViT, 512, 24, 16, 8, 3, False),
    "cvlface_kprpe_small": functools.partial(ViT, 512, 12, 8, 8, 5, False, True),
    "cvlface_kprpe_base": functools.partial(ViT, 512, 24, 16, 8, 3, False, True),
    "vit": ViT,
    "adaface": AdaFace,
    "arcface": ArcFace,
    "cosface": CosFace,
    "qaconv": QAConv,
    "occlusion_head": OcclusionHead,
    "cal_resnet18": functools.partial(WSDANCAL, "resnet18"),
    "cal_resnet34": functools.partial(WSDANCAL, "resnet34"),
    "cal_resnet50": functools.partial(WSDANCAL, "resnet50"),
    "cal_resnet101": functools.partial(WSDANCAL, "resnet101"),
    "cal_resnet152": functools.partial(WSDANCAL, "resnet152"),
    "cal_mobilefacenet": functools.partial(WSDANCAL, "mobilefacenet"),
}

BACKBONES = tuple(
    name
    for name in MODELS
    if name not in ("adaface", "arcface", "cosface", "qaconv", "occlusion_head")
)


def create(name: str, **arguments: Any) -> Any:
    """Build a model.

    Returns:
        The module, with fresh weights, in training mode.

    Raises:
        ModelError: for a name or an argument that does not exist; the legal ones are listed.
    """
    if name not in MODELS:
        raise ModelError(f"no model {name!r}; choose one of {', '.join(MODELS)}")
    build = MODELS[name]
    try:
        inspect.signature(build).bind(**arguments)
    except TypeError as fault:
        legal = ", ".join(inspect.signature(build).parameters)
        raise ModelError(f"{name}: {fault}; its arguments are: {legal}") from None
    return build(**arguments)


def blank(name: str, **arguments: Any) -> Any:
    """`create` with weights that nothing has filled: for a file that holds all of them."""
    with _Shapes():
        return create(name, **arguments)


def outline(name: str, **arguments: Any) -> Any:
    """`create` without memory: names and shapes of the tensors, on the meta device."""
    with _Shapes(), torch.device("meta"):
        return create(name, **arguments)


class _Shapes(TorchFunctionMode):
    """Skips random numbers: they take seconds, on the meta device to load torch's compiler."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """The tensor as it is, where random numbers would fill it."""
        name, module = getattr(function, "__name__", ""), getattr(function, "__module__", "")
        if name in ("normal_", "uniform_") or module == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return function(*args, **(kwargs or {}))
