"""The command `train oaml`; registered by the group in `cli`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from faceguide.core.commands.option_types import (
    Backbone,
    FiniteRange,
    Start,
)
from faceguide.train.run.repeat import record_of
from faceguide.train.training_options import (
    FOLDER,
    device_of,
    loop_options,
    loop_settings,
    run_options,
    tell,
    verification_pairs,
)

BACKBONES = ("mobilefacenet", "ir_18", "ir_34", "ir_50", "ir_101", "ir_se_50")
WEIGHT = FiniteRange(0)
SHARE = FiniteRange(0, 1)
# The whole network starts as AdaFace's recipe, parts of it as AdamW wants it.
RATES = {"all": 0.1, "heads": 2e-3, "occlusion": 2e-3}


@click.command("oaml")
@run_options
@click.option(
    "--backbone", type=Backbone(BACKBONES), default="ir_50", show_default=True,
    metavar="NAME|module:function",
    help=f"One of {', '.join(BACKBONES)}, or a function that makes your own network.",
)  # fmt: skip
@click.option(
    "--init",
    type=Start(exists=True, path_type=Path),
    help="Start from weights, such as an AdaFace .ckpt, or from a finished run of train oaml.",
)
@click.option(
    "--colour",
    type=click.Choice(["rgb", "bgr"]),
    help="Order of the channels that --init was trained on.  [default: as the file or the network "
    "tells]",
)
@click.option(
    "--train",
    "part",
    type=click.Choice(["all", "heads", "occlusion"]),
    default="all",
    show_default=True,
    help="all; heads on a frozen backbone; the occlusion head alone, on the masks of CACHE.",
)
@click.option("--niqab", type=FOLDER, help="Cache of covered faces with masks; no identities.")
@click.option(
    "--clean-share",
    type=FiniteRange(0, 1, max_open=True),
    default=0.2,
    show_default=True,
    help="Wholly visible faces in an occlusion batch.",
)
@click.option(
    "--occlusion-batch",
    type=click.IntRange(1),
    default=32,
    show_default=True,
    help="Images of --niqab per batch.",
)
@click.option(
    "--hold-out",
    type=FiniteRange(0, 1, max_open=True),
    default=0.1,
    show_default=True,
    help="Share of the faces with masks that is kept for evaluation.",
)
@click.option(
    "--map", "map_size", type=click.Choice(["7", "14"]), default="7", show_default=True,
    help="Side of the feature map that matcher and occlusion head see.",
)  # fmt: skip
@click.option(
    "--head", type=click.Choice(["adaface", "arcface", "cosface"]), default="adaface",
    show_default=True,
)  # fmt: skip
@click.option("--qaconv", type=click.Choice(["2.1", "2.0"]), default="2.1", show_default=True)
@click.option(
    "--weighting",
    type=click.Choice(["none", "scale", "mask", "common"]),
    default="common",
    show_default=True,
    help="How visibility enters the matcher.",
)
@click.option("--recognition-weight", type=WEIGHT, default=1.0, show_default=True)
@click.option("--pairwise-weight", type=WEIGHT, default=1.0, show_default=True)
@click.option("--triplet-weight", type=WEIGHT, default=0.5, show_default=True)
@click.option("--occlusion-weight", type=WEIGHT, default=0.1, show_default=True)
@click.option(
    "--triplet-margin", type=WEIGHT, default=1.0, show_default=True,
    help="In units of the matcher's score.",
)  # fmt: skip
@click.option(
    "--occlusion-grad",
    type=click.Choice(["shared", "detached"]),
    default="shared",
    show_default=True,
    help="Whether the occlusion loss trains the backbone.",
)
@click.option(
    "--occluders",
    type=click.Choice(["none", "medical", "band", "rectangle"]),
    multiple=True,
    help="Draw such covers; may be repeated.  [default: none]",
)
@click.option("--occluder-share", type=SHARE, default=0.5, show_default=True, help="Of the images.")
@click.option(
    "--augment/--no-augment", default=True, show_default=True,
    help="AdaFace's: parts on black, fewer pixels, other light, mirror images.",
)  # fmt: skip
@click.option(
    "--sampler",
    type=click.Choice(["pk", "graph", "shuffle"]),
    default="pk",
    show_default=True,
    help="graph: persons whom the matcher confuses share a batch.",
)
@click.option("--images-per-person", type=click.IntRange(2), default=4, show_default=True)
@click.option(
    "--lr", "rate", type=FiniteRange(0, min_open=True),
    help="At the start.  [default: 0.1; parts of the network 0.002]",
)  # fmt: skip
@click.option("--weight-decay", type=WEIGHT, default=5e-4, show_default=True)
@click.option("--freeze-norm", is_flag=True, help="BatchNorm of the backbone keeps its statistics.")
@loop_options(epochs=26, batch_size=64, min_images=2, pictures="visibility")
def oaml_command(**options: Any) -> None:
    """Train AdaFace, QAConv and a head that predicts which cells of a face can be seen.

    CACHE holds the persons to recognise; masks are learnt from --niqab, or from CACHE itself.
    The same command again goes on where it stopped. Several processes: torchrun or srun.

    \b
    Examples:
      train oaml cache/ --out runs/oaml --init adaface_ir50_ms1mv2.ckpt --niqab niqab/ --lr 0.01
      train oaml niqab/ --out runs/head --train occlusion --init adaface_ir50_ms1mv2.ckpt
      torchrun --nproc-per-node 4 -m faceguide.train oaml cache/ --out runs/four --amp bf16
      train oaml cache/ --out runs/whole --init runs/heads --lr 0.001
      train oaml cache/ --out runs/own --backbone my_networks:build --lr 0.01
      train oaml --from runs/oaml/run.json --out runs/again
    """
    import sys

    from faceguide.cache.reader import FaceCache
    from faceguide.train.distributed import from_environment, joined
    from faceguide.train.oaml.oaml_request import OamlRun
    from faceguide.train.oaml.oaml_run import run_oaml

    _require_asked_for(options["backbone"])
    processes = from_environment()
    device = device_of(options, processes)
    cache = FaceCache.open(options["cache_directory"])
    options["rate"] = options["rate"] or RATES[options["part"]]
    run = OamlRun(
        backbone=options["backbone"],
        recipe=_recipe(options),
        colour=options["colour"] and options["colour"].upper(),
        **{
            name: options[name]
            for name in (
                "head", "qaconv", "weighting", "sampler", "images_per_person", "batch_size",
                "occlusion_batch", "clean_share", "hold_out", "rate", "weight_decay", "min_images",
                "meta", "init", "threads",
            )
        },
    )  # fmt: skip
    pairs = verification_pairs(cache, options, processes.first)
    covered = ["faces", "occlusion"]
    record = record_of(
        options, {"cache_directory": covered, "niqab": covered, "eval_cache": ["faces"]}
    )
    with joined(processes, device):
        result = run_oaml(
            cache,
            options["directory"],
            run,
            loop_settings(options),
            device=device,
            processes=processes,
            second=FaceCache.open(options["niqab"]) if options["niqab"] else None,
            pairs=pairs,
            argv=sys.argv,
            record=record,
        )
    if processes.first:
        tell(result, "directory", as_json=options["as_json"])


def _require_asked_for(backbone: str) -> None:
    """A record that names code of the user is no reason to run it; the command line is."""
    source = click.get_current_context().get_parameter_source("backbone")
    if ":" in backbone and source is not ParameterSource.COMMANDLINE:
        raise click.UsageError(
            f"that run trained a network of your own, {backbone}; give --backbone {backbone} to "
            "import it"
        )


def _recipe(options: dict[str, Any]) -> Any:
    from faceguide.train.data.face_augment import FaceAugmentation
    from faceguide.train.data.occluders import Occluders
    from faceguide.train.oaml.oaml_step import (
        OamlSettings,
        OamlWeights,
    )

    kinds = tuple(kind for kind in options["occluders"] if kind != "none")
    occluders = Occluders(kinds, options["occluder_share"]) if kinds else None
    if options["augment"]:
        augmentation = FaceAugmentation(occluders=occluders)
    else:
        augmentation = FaceAugmentation(0.0, 0.0, 0.0, 0.0, occluders)
    return OamlSettings(
        part=options["part"],
        weights=OamlWeights(
            options["recognition_weight"],
            options["pairwise_weight"],
            options["triplet_weight"],
            options["occlusion_weight"],
        ),
        margin=options["triplet_margin"],
        map_size=int(options["map_size"]),
        shared=options["occlusion_grad"] == "shared",
        freeze_norm=options["freeze_norm"],
        augmentation=augmentation,
        seed=options["seed"],
    )
