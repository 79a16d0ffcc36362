"""`train`: learn from a cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from faceguide import __version__
from faceguide.cache.console import Group, echo_json, say
from faceguide.train.oaml_command import oaml_command
from faceguide.train.option_types import Counts, Equals, Guide

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
MODELS = (
    "cal_resnet18",
    "cal_resnet34",
    "cal_resnet50",
    "cal_resnet101",
    "cal_resnet152",
    "cal_mobilefacenet",
)


@click.group(cls=Group)
@click.version_option(__version__, prog_name="faceguide")
def main() -> None:
    """Learn from a cache.

    \b
    Example:
      train cal cache/ --out runs/cal --guide regions
    """


main.add_command(oaml_command)


@main.command("cal")
@click.argument("cache_directory", metavar="CACHE", type=FOLDER)
@click.option("--out", "directory", type=click.Path(path_type=Path), required=True, help="Run.")
@click.option("--model", type=click.Choice(MODELS), default="cal_resnet101", show_default=True)
@click.option("--init", type=FILE, help="Start from these weights: ImageNet ResNet, CAL, face net.")
@click.option(
    "--heads", type=click.IntRange(1), default=32, show_default=True, help="Attention maps."
)
@click.option(
    "--stride",
    type=click.Choice(["16", "32"]),
    default="16",
    show_default=True,
    help="Pixels per cell of the attention map; 32 is faster.",
)
@click.option(
    "--crop",
    type=click.IntRange(16),
    help="Side of the training crop.  [default: 7/8 of a cache with margin, else all]",
)
@click.option(
    "--guide",
    "guides",
    type=Guide(),
    multiple=True,
    help="Guide attention by landmarks: loss, regions, regions-log, counterfactual, prior or "
    "contrastive, with =WEIGHT if another than the default is wanted. May be given several times.",
)
@click.option(
    "--heads-per-region",
    "assignment",
    type=Counts(),
    help="Heads of eyes,nose,mouth; the others stay free.  [default: 3/8, 1/4, 1/4 of all]",
)
@click.option(
    "--contrastive-margin",
    "margin",
    type=click.FloatRange(-1, 1),
    default=0.5,
    show_default=True,
    help="Cosine that two persons may have for free in --guide contrastive.",
)
@click.option(
    "--contrastive-pairs",
    type=FILE,
    help="Pairs for --guide contrastive (twins, hard negatives): CSV, pairs.txt or ND-TWIN JSON.",
)
@click.option("--guide-template", is_flag=True, help="Guide by the template's mean landmarks too.")
@click.option("--pairs", type=FILE, help="Verification pairs, tried after every epoch.")
@click.option("--pairs-split", help="Which part of an ND-TWIN JSON file: train, val or test.")
@click.option("--eval-cache", type=FOLDER, help="Cache that --pairs lie in.  [default: CACHE]")
@click.option(
    "--forwards",
    type=click.Choice(["1", "2", "8"]),
    default="1",
    show_default=True,
    help="Views of an image in the evaluation.",
)
@click.option("--meta", type=Equals(), multiple=True, help="Only rows of this, e.g. split=train.")
@click.option(
    "--min-images",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Leave out persons with fewer images.",
)
@click.option("--epochs", type=click.IntRange(1), default=160, show_default=True)
@click.option("--steps", type=click.IntRange(1), help="Stop after so many optimiser steps.")
@click.option(
    "--batch-size",
    type=click.IntRange(2),
    default=16,
    show_default=True,
    help="Images per process.",
)
@click.option(
    "--accumulate",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Batches per optimiser step.",
)
@click.option(
    "--lr",
    "rate",
    type=click.FloatRange(0, min_open=True),
    default=1e-3,
    show_default=True,
    help="Falls by 0.9 every two epochs.",
)
@click.option("--weight-decay", type=click.FloatRange(0), default=1e-5, show_default=True)
@click.option(
    "--views/--no-views",
    default=True,
    show_default=True,
    help="Train on attention crop and attention drop too.",
)
@click.option("--freeze-norm", is_flag=True, help="BatchNorm keeps its statistics.")
@click.option(
    "--amp",
    type=click.Choice(["off", "bf16", "fp16"]),
    default="off",
    show_default=True,
    help="Arithmetic of the forward pass; fp16 needs CUDA.",
)
@click.option("--compile", "compiled", is_flag=True, help="Use torch.compile.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--threads",
    type=click.IntRange(1),
    default=2,
    show_default=True,
    help="Threads that read the cache.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--log-every",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="Steps per line of metrics.jsonl.",
)
@click.option(
    "--save-every",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="Steps between saves.",
)
@click.option(
    "--picture-every",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Steps between pictures of attention; 0 = none.",
)
@click.option("--tensorboard", is_flag=True, help="Write TensorBoard events too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def cal_command(**options: Any) -> None:
    """Train Counterfactual Attention Learning on CACHE, guided by landmarks if wished.

    Landmarks guide training alone; at inference the model needs none. The same command again
    goes on where it stopped. Several processes: start with torchrun or srun.

    \b
    Examples:
      train cal cache/ --out runs/twins --init resnet101.pth --guide regions --pairs pairs.csv
      torchrun --nproc-per-node 4 -m faceguide train cal cache/ --out runs/four --amp bf16
    """
    import sys

    import torch

    from faceguide.cache.reader import FaceCache
    from faceguide.train.augment import Augmentation
    from faceguide.train.cal import CalSettings
    from faceguide.train.cal_run import CalRun, default_crop, run_cal
    from faceguide.train.distributed import choose_device, from_environment, joined
    from faceguide.train.loop import LoopSettings

    chosen = dict(options["guides"])
    if options["contrastive_pairs"] and "contrastive" not in chosen:
        raise click.UsageError("--contrastive-pairs needs --guide contrastive")
    processes = from_environment()
    device = choose_device(options["device"], processes)
    if options["amp"] == "fp16" and device.type != "cuda":
        raise click.UsageError("--amp fp16 needs a CUDA device; choose bf16 or off")
    cache = FaceCache.open(options["cache_directory"])
    recipe = CalSettings(
        Augmentation(options["crop"] or default_crop(cache)),
        _guidance(chosen, options),
        views=options["views"],
        freeze_norm=options["freeze_norm"],
        seed=options["seed"],
    )
    run = CalRun(
        model=options["model"],
        recipe=recipe,
        heads=options["heads"],
        stride=int(options["stride"]),
        batch_size=options["batch_size"],
        rate=options["rate"],
        weight_decay=options["weight_decay"],
        min_images=options["min_images"],
        meta=options["meta"],
        forwards=int(options["forwards"]),
        init=options["init"],
        threads=options["threads"],
    )
    loop = LoopSettings(
        epochs=options["epochs"],
        steps=options["steps"],
        accumulate=options["accumulate"],
        amp=options["amp"],
        compile=options["compiled"],
        log_every=options["log_every"],
        save_every=options["save_every"],
        picture_every=options["picture_every"],
        tensorboard=options["tensorboard"],
    )
    pairs = None
    if options["pairs"]:
        where = FaceCache.open(options["eval_cache"]) if options["eval_cache"] else cache
        pairs = (where, _read_pairs(where, options["pairs"], options["pairs_split"]))
    listed = None
    if options["contrastive_pairs"]:
        listed = _read_pairs(cache, options["contrastive_pairs"], options["pairs_split"])
    with joined(processes, torch.device(device)):
        result = run_cal(
            cache,
            options["directory"],
            run,
            loop,
            device=device,
            processes=processes,
            pairs=pairs,
            contrastive_pairs=listed,
            argv=sys.argv,
            facts={name: str(options[name]) for name in ("pairs", "contrastive_pairs", "device")},
        )
    if processes.first:
        if options["as_json"]:
            echo_json(result)
        else:
            click.echo(f"{result['weights']}: after {result['steps']} steps")


def _guidance(chosen: dict[str, float], options: dict[str, Any]) -> Any:
    from faceguide.train.guidance import GuidanceSettings

    return GuidanceSettings(
        loss=chosen.get("loss", 0.0),
        regions=chosen.get("regions", 0.0),
        regions_log=chosen.get("regions-log", 0.0),
        counterfactual="counterfactual" in chosen,
        prior=chosen.get("prior", 0.0),
        contrastive=chosen.get("contrastive", 0.0),
        assignment=options["assignment"],
        margin=options["margin"],
        template=options["guide_template"],
    )


def _read_pairs(cache: Any, path: Path, split: str | None) -> Any:
    """Pairs of a file as rows of the cache; those it lacks are counted aloud."""
    from faceguide.cache.pair_lists import read_pairs
    from faceguide.cache.pair_rows import resolve
    from faceguide.train.verification import Pairs

    found = resolve(cache, read_pairs(path, split))
    if found.left_out:
        first = found.left_out[0]
        say(
            f"Note: {len(found.left_out)} of {found.listed} pairs of {path} are left out; "
            f"the first: {first.reason}"
        )
    return Pairs(found.probe, found.reference, np.asarray(found.same))
