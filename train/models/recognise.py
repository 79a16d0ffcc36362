"""Which network the tensors of a weights file are for, told by their names and shapes.

One table: a name that only this family of networks has, and how sizes are read off the shapes.
Names are looked for behind any prefix, in every table of a file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from faceguide.core.errors import CheckpointError
from faceguide.train.models.backbones.edgeface import SIZES
from faceguide.train.models.backbones.ir import UNITS
from faceguide.train.models.backbones.keypoint_bias import CLASSES
from faceguide.train.models.backbones.resnet import BLOCKS
from faceguide.train.models.backbones.vit import SIZE
from faceguide.train.models.layout import Table

Shapes = Mapping[str, tuple[int, ...]]
Read = Callable[[Shapes], tuple[str, dict[str, Any]]]

# Heads of vision transformers, which no shape tells: by patch, width, blocks and mlp ratio.
_VITS = {
    (9, 256, 12, 4): "vit_t",
    (9, 512, 12, 4): "vit_s",
    (9, 512, 24, 4): "vit_b",
    (9, 768, 24, 4): "vit_l",
    (9, 1024, 48, 4): "vit_h",
    (16, 192, 12, 4): "vit_tiny",
    (8, 512, 12, 5): "cvlface_vit_small",
    (8, 512, 24, 3): "cvlface_vit_base",
}


@dataclass(frozen=True)
class Recognised:
    """A network in a file.

    Attributes:
        place: of the table that it is in, see `layout.Table`.
        prefix: before its names.
        name: for `create`; "" when nothing here builds it.
        missing: why there is no name.
    """

    title: str
    place: str
    prefix: str
    name: str
    arguments: dict[str, Any]
    missing: str = ""


class _Unknown(Exception):
    """What is missing in a file of a known family, or what must be asked."""


def _count(shapes: Shapes, pattern: str) -> int:
    """One more than the largest number in the group of a pattern; 0 when no name starts so."""
    found = [int(match[1][:9]) for name in shapes if (match := re.match(pattern, name))]
    return min(max(found, default=-1) + 1, len(shapes))  # a name may say any number


def _ir(shapes: Shapes) -> tuple[str, dict[str, Any]]:
    units = _count(shapes, r"body\.(\d+)\.")
    size = {"embedding_size": shapes["output_layer.3.weight"][0]}
    if "output_layer.4.weight" in shapes:  # an iresnet that was trained here
        return f"iresnet_{next((d for d, n in UNITS.items() if sum(n) == units), None)}", size
    kind = "ir_se" if "body.0.res_layer.se_block.fc1.weight" in shapes else "ir"
    depth = next((d for d, n in UNITS.items() if sum(n) == units and d != 100), None)
    return f"{kind}_{depth}", size


def _iresnet(shapes: Shapes) -> tuple[str, dict[str, Any]]:
    units = tuple(_count(shapes, rf"layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4))
    depth = next((depth for depth, stages in UNITS.items() if stages == units), None)
    return f"iresnet_{depth}", {"embedding_size": shapes["fc.weight"][0]}


def _mbf(shapes: Shapes) -> tuple[str, dict[str, Any]]:
    stages = [
        _count(shapes, rf"layers\.{n}\.layers\.(\d+)\.layers\.2\.layers") for n in (1, 3, 5, 7)
    ]
    scale = shapes["conv_sep.layers.0.weight"][1] // 128
    known: dict[tuple[int, tuple[int, ...]], str] = {
        (2, (1, 4, 6, 2)): "mbf",
        (4, (2, 8, 12, 4)): "mbf_large",
    }
    size = {"embedding_size": shapes["features.layers.2.weight"][0]}
    stages[0] = max(stages[0], 1)  # a single layer
    if name := known.get((scale, tuple(stages))):
        return name, size
    return "mbf", {"blocks": stages, "scale": scale, **size}


def _vit(shapes: Shapes) -> tuple[str, dict[str, Any]]:
    if "feature.2.weight" not in shapes:
        raise _Unknown("it has no layers `feature`, as those of arcface_torch and CVLFace have")
    width, _, patch, _ = shapes["patch_embed.proj.weight"]
    depth = _count(shapes, r"blocks\.(\d+)\.")
    ratio = shapes["blocks.0.mlp.fc1.weight"][0] // width
    size = {"embedding_size": shapes["feature.2.weight"][0]}
    if shapes["pos_embed"][1] != (SIZE // patch) ** 2:
        raise _Unknown(
            f"its {shapes['pos_embed'][1]} tokens of {patch} pixels are no {SIZE}-pixel face"
        )
    shape = {
        "width": width, "depth": depth, "patch": patch, "mlp_ratio": ratio,
        "mask_token": "mask_token" in shapes,
    }  # fmt: skip
    name = _VITS.get((patch, width, depth, ratio))
    if "keypoint_linear.weight" in shapes:
        heads = shapes["keypoint_linear.weight"][0] // (CLASSES**2 * depth)
        if name in ("cvlface_vit_small", "cvlface_vit_base"):
            return name.replace("vit", "kprpe"), size
        return "vit", {**shape, "heads": heads, "keypoints": True, **size}
    if name is not None:
        # A name of the table has the mask token that its family has; files may differ.
        own = not name.startswith("cvlface")
        return name, size if shape["mask_token"] == own else {**size, "mask_token": not own}
    return "vit", {**shape, **size}


def _edgeface(shapes: Shapes) -> tuple[str, dict[str, Any]]:
    width = shapes["stem.0.weight"][0]
    size = next((name for name, (widths, *_) in SIZES.items() if widths[0] == width), None)
    if "head.fc.linear1.weight" not in shapes:
        return f"edgeface_{size}", {"embedding_size": shapes["head.fc.weight"][0]}
    rank, inputs = shapes["head.fc.linear1.weight"]
    outputs = shapes["head.fc.linear2.weight"][0]
    # rank = int(gamma · least), so gamma lies in a narrow span: its two digits are in the middle.
    gamma = round((rank + 0.5) / min(inputs, outputs), 2)
    if (size, gamma) in (("xs", 0.6), ("s", 0.5)):  # the published ones
        name = f"edgeface_{size}_gamma_{gamma:.1f}".replace(".", "")
        return name, {"embedding_size": outputs}
    return f"edgeface_{size}", {"rank_ratio": gamma, "embedding_size": outputs}


def _mobilefacenet(shapes: Shapes) -> tuple[str, dict[str, Any]]:
    return "mobilefacenet", {"embedding_size": shapes["conv3.weight"][0]}


def _facenet(shapes: Shapes) -> tuple[str, dict[str, Any]]:
    return "inception_resnet_v1", {"embedding_size": shapes["last_linear.weight"][0]}


def _resnet_of(shapes: Shapes, stages: tuple[str, ...]) -> str:
    """The name of a ResNet whose stages begin so."""
    blocks = tuple(_count(shapes, rf"{re.escape(stage)}(\d+)\.") for stage in stages)
    deep = any(name.startswith(f"{stages[0]}0.conv3") for name in shapes)
    depth = next((d for d, n in BLOCKS.items() if n == blocks and (d >= 50) == deep), None)
    return f"resnet{depth}"


def _imagenet(shapes: Shapes) -> tuple[str, dict[str, Any]]:
    name = _resnet_of(shapes, ("layer1.", "layer2.", "layer3.", "layer4."))
    raise _Unknown(f"{name} of ImageNet, not a face network")


def _cal(shapes: Shapes) -> tuple[str, dict[str, Any]]:
    sizes = {
        "num_classes": shapes["fc.weight"][0], "heads": shapes["attentions.conv.weight"][0],
    }  # fmt: skip
    if "features.conv2.0.weight" in shapes:
        return "cal_mobilefacenet", sizes
    return "cal_" + _resnet_of(shapes, tuple(f"features.{n}." for n in (4, 5, 6, 7))), sizes


# title, a name that only this family has, how its size is read. The first that fits counts.
_FAMILIES: tuple[tuple[str, str, Read], ...] = (
    ("an attention network of train cal", "attentions.conv.weight", _cal),
    ("an IR network of AdaFace or CVLFace", "input_layer.0.weight", _ir),
    ("an iresnet of insightface's arcface_torch", "layer1.0.prelu.weight", _iresnet),
    ("the mbf of insightface's arcface_torch", "conv_sep.layers.0.weight", _mbf),
    ("a vision transformer", "patch_embed.proj.weight", _vit),
    ("EdgeFace", "stages.0.blocks.0.gamma", _edgeface),
    ("MobileFaceNet", "gdconv.depthwise.weight", _mobilefacenet),
    ("FaceNet", "conv2d_1a.conv.weight", _facenet),
    ("a ResNet", "layer1.0.conv1.weight", _imagenet),
)


def recognised(there: list[Table]) -> list[Recognised]:
    """Every network in a file; means over training steps and other copies are further ones."""
    from faceguide.train.models import MODELS

    found: dict[tuple[str, str], Recognised] = {}
    for table in there:
        for title, anchor, read in _FAMILIES:
            for key in table.tensors:
                prefix = key.removesuffix(anchor)
                if (prefix == key or prefix[-1:] not in ("", ".")) or (
                    (table.place, prefix) in found
                ):
                    continue
                shapes = {
                    name.removeprefix(prefix): tuple(value.shape)
                    for name, value in table.tensors.items()
                    if name.startswith(prefix)
                }
                name, missing = "", ""
                arguments: dict[str, Any] = {}
                try:
                    name, arguments = read(shapes)
                    if name not in MODELS:
                        name, missing = "", "its size is not among those of the networks here"
                except KeyError as lack:
                    missing = f"it lacks {lack.args[0]}"
                except (_Unknown, ValueError, IndexError, ZeroDivisionError) as fault:
                    missing = str(fault) if isinstance(fault, _Unknown) else "its shapes are odd"
                found[table.place, prefix] = Recognised(
                    title, table.place, prefix, name, arguments, missing
                )
    return list(found.values())


def the_network(there: list[Table], asked: str | None, where: object) -> Recognised | None:
    """The network of a file; None when nothing in it is recognised.

    Args:
        asked: the name by --backbone, which decides among several and is checked; or None.

    Raises:
        CheckpointError: saying what was recognised and what is missing.
    """
    every = recognised(there)
    known = {one.name: one for one in reversed(every) if one.name}
    if asked is not None and asked in known:
        return known[asked]
    if len(known) > 1:
        listed = " and ".join(f"{one.name} (under {one.prefix!r})" for one in known.values())
        raise CheckpointError(f"{where}: holds {listed}; choose one by --backbone")
    if known:
        one = next(iter(known.values()))
        if asked is not None:
            raise CheckpointError(
                f"{where}: looks like {one.name}, {one.title}, not {asked}; leave --backbone out"
            )
        return one
    if every:
        raise CheckpointError(f"{where}: looks like {every[0].title}, but {every[0].missing}")
    return None


def looks_like(there: list[Table], module: nn.Module, option: str) -> str:
    """What a file looks like that is not this network's, with the remedy; "" when unknown.

    Args:
        module: the network that it was tried for.
        option: by which another is chosen: "--model" of `train cal`, else "--backbone".
    """
    from faceguide.train.models import MODELS, outline

    for one in recognised(there):
        if not one.name:
            if (other := re.match(r"resnet\d+", one.missing)) is None:
                continue  # it may be this network, and not whole
            if option == "--model":
                return f"it looks like {other[0]}: use --model cal_{other[0]}"
            return f"it looks like {one.missing}"
        if outline(one.name, **one.arguments).state_dict().keys() == module.state_dict().keys():
            continue
        if option == "--model" and not one.name.startswith("cal_"):
            if f"cal_{one.name}" not in MODELS:
                return f"it looks like {one.name}, which {option} does not offer"
            return f"it looks like {one.name}: use {option} cal_{one.name}"
        return f"it looks like {one.name}: use {option} {one.name}"
    return ""
