"""What `train oaml` is asked for: its options, their defaults and their record."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click

from faceguide.core.commands.option_types import FiniteRange
from faceguide.core.commands.settings import option
from faceguide.core.commands.shared_options import FOLDER
from faceguide.core.errors import TrainError
from faceguide.train.training_settings import Fit, Recipe

BACKBONES = ("mobilefacenet", "ir_18", "ir_34", "ir_50", "ir_101", "ir_se_50")
PARTS = ("all", "heads", "occlusion")
KINDS = ("medical", "band", "rectangle")  # of drawn covers
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


class Start(click.Path):
    """A weights file, or the directory of a finished run of `train oaml`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path."""
        found = Path(os.fsdecode(super().convert(value, param, ctx)))
        if found.is_dir() and not (found / "backbone.safetensors").exists():
            self.fail(
                f"{found} is neither weights nor a finished run of train oaml (it has no "
                "backbone.safetensors)",
                param,
                ctx,
            )
        return found


@dataclass(frozen=True, kw_only=True)
class OamlSettings(Recipe):
    """The recipe of a step.

    Attributes:
        part: what is trained: "all"; "heads", with a frozen backbone; "occlusion", only the head
            of that name.
        map_size: side of the feature map that matcher and head see.
        recognition_weight: of the margin head's cross-entropy.
        pairwise_weight: of the matcher's binary cross-entropy.
        triplet_weight: of the matcher's hardest triplets.
        occlusion_weight: of the squared error of visibility.
        margin: of the triplets, in the matcher's score.
        occlusion_grad: "shared", the occlusion loss trains the backbone too; or "detached".
        occluders: kinds of drawn covers; "none" is no kind.
        occluder_share: of the images that get one.
        augment: AdaFace's augmentation.
    """

    part: Literal["all", "heads", "occlusion"] = option(
        "all", "all; heads on a frozen backbone; only the occlusion head, on the masks of CACHE.",
        "--train",
    )  # fmt: skip
    map_size: Literal[7, 14] = option(
        7, "Side of the feature map that matcher and occlusion head see.", "--map"
    )
    recognition_weight: float = option(1.0, "Of the margin head's loss.", type=WEIGHT)
    pairwise_weight: float = option(1.0, "Of the matcher's pairwise loss.", type=WEIGHT)
    triplet_weight: float = option(0.5, "Of the matcher's triplet loss.", type=WEIGHT)
    occlusion_weight: float = option(0.1, "Of the loss of visibility.", type=WEIGHT)
    margin: float = option(1.0, "In units of the matcher's score.", "--triplet-margin", type=WEIGHT)
    occlusion_grad: Literal["shared", "detached"] = option(
        "shared", "Whether the occlusion loss trains the backbone."
    )
    occluders: tuple[str, ...] = option(
        (), "Draw such covers; may be repeated.  [default: none]",
        type=click.Choice(("none", *KINDS)), multiple=True,
    )  # fmt: skip
    occluder_share: float = option(0.5, "Of the images.", type=SHARE)
    augment: bool = option(
        True, "AdaFace's: parts on black, fewer pixels, other light, mirror images."
    )

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise TrainError(f"--train must be one of {', '.join(PARTS)}, found {self.part!r}")


@dataclass(frozen=True, kw_only=True)
class OamlRun(Fit):
    """What is learnt, and how.

    Attributes:
        backbone: a name in `BACKBONES`, or `module:function` of the user's own, see
            `train.models.own_networks`.
        init: weights file or finished run of `train oaml` to start from, or None.
        colour: order of the channels that the backbone is fed; None = as `init` or the network
            says.
        recipe: of a step.
        clean_share: of the occlusion batch, wholly visible faces.
        occlusion_batch: images of the second cache per batch and process.
        hold_out: share of the faces with known visibility that is kept for evaluation.
        head: the margin head.
        sample_classes: share of the classes that a step compares with, or from 1 on their number;
            those of the batch are among them. None = all.
        qaconv: version of the matcher.
        weighting: how visibility enters the matcher.
        sampler: of the batches.
        images_per_person: K of the samplers "pk" and "graph".
        rate: learning rate at the start; None = by `RATES`.
    """

    backbone: str = option(
        "ir_50", f"One of {', '.join(BACKBONES)}, or a function that makes your own network.",
        type=Backbone(), metavar="NAME|module:function",
    )  # fmt: skip
    init: Path | None = option(
        None, "Start from weights, such as an AdaFace .ckpt, or from a finished run of train oaml.",
        type=Start(exists=True, path_type=Path),
    )  # fmt: skip
    colour: Literal["rgb", "bgr"] | None = option(
        None,
        "Order of the channels that --init was trained on.  [default: as the file or the network "
        "says]",
    )
    recipe: OamlSettings = OamlSettings()
    clean_share: float = option(
        0.2, "Wholly visible faces in an occlusion batch.", type=LESS_THAN_ALL
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
        "pk", "graph: identities that the matcher confuses share a batch."
    )
    images_per_person: int = option(4, "Of an identity in a batch.", type=click.IntRange(2))
    rate: float | None = option(
        None, "At the start.  [default: 0.1; parts of the network 0.002]", "--lr",
        type=FiniteRange(0, min_open=True),
    )  # fmt: skip

    @property
    def start_rate(self) -> float:
        """Learning rate at the start."""
        return self.rate or RATES[self.recipe.part]


@dataclass(frozen=True)
class SecondCache:
    """Covered faces that visibility is learnt from; what they are stands in the resume key."""

    niqab: Path | None = option(
        None, "Cache of covered faces with masks; no identities.", type=FOLDER, free=True
    )
