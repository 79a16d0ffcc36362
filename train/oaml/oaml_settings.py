"""What `train oaml` is asked for: its options, their defaults and their record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click

from faceguide.core.commands.option_types import FiniteRange
from faceguide.core.commands.settings import option
from faceguide.core.commands.shared_options import CACHES
from faceguide.train.training_settings import KINDS, Fit, Recipe

# Those with a map that matcher and occlusion head can look at.
BACKBONES = (
    *("mobilefacenet", "mbf", "mbf_large", "ir_18", "ir_34", "ir_50", "ir_101", "ir_se_50"),
    *("iresnet_18", "iresnet_34", "iresnet_50", "iresnet_100", "iresnet_200"),
    *("edgeface_xxs", "edgeface_xs", "edgeface_s", "edgeface_base", "edgeface_xs_gamma_06"),
    *("edgeface_s_gamma_05", "vit_tiny", "vit_t", "vit_s", "vit_b", "vit_l", "vit_h"),
    *("cvlface_vit_small", "cvlface_vit_base", "cvlface_kprpe_small", "cvlface_kprpe_base"),
    *("inception_resnet_v1", "vit"),
)
# The whole network starts as AdaFace's recipe, parts of it as AdamW wants it.
RATES = {"all": 0.1, "heads": 2e-3, "occlusion": 2e-3}

WEIGHT = FiniteRange(0)
SHARE = FiniteRange(0, 1)
LESS_THAN_ALL = FiniteRange(0, 1, max_open=True)


class Backbone(click.ParamType):
    """A name of ours, or `module:function` of the user's own."""

    name = "backbone"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text itself, if it can be a backbone."""
        if ":" not in value and value not in BACKBONES:
            listed = ", ".join(BACKBONES)
            self.fail(f"{value!r}: choose one of {listed}, or give module:function", param, ctx)
        return value


@dataclass(frozen=True, kw_only=True)
class OamlSettings(Recipe):
    """The recipe of a step."""

    part: Literal["all", "heads", "occlusion"] = option(
        "all", "all; heads on a frozen backbone; only the occlusion head, on the masks of CACHE.",
        "--train",
    )  # fmt: skip
    map_size: Literal[7, 8, 12, 14] = option(
        7,
        "Side of the feature map that matcher and occlusion head see: 8 of FaceNet, of vision "
        "transformers the side of their grid of tokens.",
        "--map",
    )
    recognition_weight: float = option(1.0, "Weight of the margin head's loss.", type=WEIGHT)
    pairwise_weight: float = option(1.0, "Weight of the matcher's pairwise loss.", type=WEIGHT)
    triplet_weight: float = option(0.5, "Weight of the matcher's triplet loss.", type=WEIGHT)
    occlusion_weight: float = option(0.1, "Weight of the visibility loss.", type=WEIGHT)
    margin: float = option(
        1.0, "Margin in units of the matcher's score.", "--triplet-margin", type=WEIGHT
    )
    occlusion_grad: Literal["shared", "detached"] = option(
        "shared", "Whether the occlusion loss trains the backbone."
    )
    occluders: tuple[str, ...] = option(
        (), "Draw such covers on faces; may be repeated.  [default: none]",
        type=click.Choice(("none", *KINDS)), multiple=True,
    )  # fmt: skip
    occluder_share: float = option(0.5, "Share of the images with a drawn cover.", type=SHARE)
    augment: bool = option(
        True, "AdaFace's augmentation: cropping, low resolution, photometric jitter, mirror images."
    )


@dataclass(frozen=True, kw_only=True)
class OamlRun(Fit):
    """What is learnt, and how; the options say what each field means."""

    backbone: str = option(
        "ir_50",
        f"One of {', '.join(BACKBONES)}, or a function that makes your own network; what --init "
        "holds is checked.  [default: as --init says, else ir_50]",
        type=Backbone(),
        metavar="NAME|module:function",
        show_default=False,
    )
    colour: Literal["rgb", "bgr"] | None = option(
        None,
        "Order of the channels that --init was trained on.  [default: as the file or the network "
        "says]",
    )
    recipe: OamlSettings = OamlSettings()
    clean_share: float = option(
        0.2, "Share of wholly visible faces in an occlusion batch.", type=LESS_THAN_ALL
    )
    occlusion_batch: int = option(32, "Images of --niqab per batch.", type=click.IntRange(1))
    hold_out: float = option(
        0.1, "Share of the faces with masks that is kept for evaluation.", type=LESS_THAN_ALL
    )
    head: Literal["adaface", "arcface", "cosface"] = option("adaface", "Margin head.")
    sample_classes: float | None = option(
        None,
        "Compare with a sample of the identities per step: a share below 1, or a number. For very "
        "many: their centres are shared out over the processes.  [default: all]",
        type=FiniteRange(0, min_open=True),
    )
    qaconv: Literal["2.1", "2.0"] = option("2.1", "Version of the matcher.")
    weighting: Literal["none", "scale", "mask", "common"] = option(
        "common", "How visibility enters the matcher."
    )
    sampler: Literal["pk", "graph", "shuffle"] = option(
        "pk", "How batches are made; graph: of identities that the matcher confuses."
    )
    images_per_person: int = option(4, "Images of an identity in a batch.", type=click.IntRange(2))
    rate: float | None = option(
        None, "Learning rate at the start.  [default: 0.1; parts of the network 0.002]", "--lr",
        type=FiniteRange(0, min_open=True),
    )  # fmt: skip

    @property
    def start_rate(self) -> float:
        return self.rate or RATES[self.recipe.part]


@dataclass(frozen=True)
class SecondCache:
    """Covered faces that visibility is learnt from; what they are stands in the resume key."""

    niqab: Path | None = option(
        None, "Cache of covered faces with masks; needs no identities.", type=CACHES, free=True
    )
