"""`train`: learn from a cache."""

from __future__ import annotations

from typing import Any

import click

from faceguide import __version__
from faceguide.core.commands.console import Group
from faceguide.core.commands.option_types import (
    Counts,
    FiniteRange,
    Guide,
    once_each,
)
from faceguide.core.commands.submit import submit_group
from faceguide.train.oaml.oaml_command import oaml_command
from faceguide.train.run.repeat import record_of
from faceguide.train.training_options import (
    FILE,
    device_of,
    loop_options,
    loop_settings,
    pairs_of,
    run_options,
    tell,
    verification_pairs,
)

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
      train cal cache/ --out runs/cal --guide regions-log
    """


main.add_command(oaml_command)


@main.command("cal")
@run_options
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
    callback=once_each,
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
    type=FiniteRange(-1, 1),
    default=0.5,
    show_default=True,
    help="Cosine that two persons may have for free in --guide contrastive.",
)
@click.option(
    "--contrastive-pairs",
    type=FILE,
    help="Pairs for --guide contrastive (twins, hard negatives): CSV, pairs.txt or ND-TWIN JSON.",
)
@click.option(
    "--contrastive-split",
    help="Which part of --contrastive-pairs, if it is an ND-TWIN JSON file: train, val or test.",
)
@click.option("--guide-template", is_flag=True, help="Guide by the template's mean landmarks too.")
@click.option(
    "--forwards",
    type=click.Choice(["1", "2", "8"]),
    default="1",
    show_default=True,
    help="Views of an image in the evaluation.",
)
@click.option(
    "--lr",
    "rate",
    type=FiniteRange(0, min_open=True),
    default=1e-3,
    show_default=True,
    help="Multiplied by 0.9 every two epochs.",
)
@click.option("--weight-decay", type=FiniteRange(0), default=1e-5, show_default=True)
@click.option(
    "--views/--no-views",
    default=True,
    show_default=True,
    help="Train on attention crop and attention drop too.",
)
@click.option("--freeze-norm", is_flag=True, help="BatchNorm keeps its statistics.")
@loop_options(epochs=160, batch_size=16, min_images=1, pictures="attention")
def cal_command(**options: Any) -> None:
    """Train Counterfactual Attention Learning on CACHE, guided by landmarks if wished.

    Landmarks guide training alone; at inference the model needs none. The same command again
    goes on where it stopped. Several processes: start with torchrun or srun.

    \b
    Examples:
      train cal cache/ --out runs/twins --init resnet101.pth --guide regions-log --pairs pairs.csv
      torchrun --nproc-per-node 4 -m faceguide train cal cache/ --out runs/four --amp bf16
      train cal --from runs/twins/run.json --out runs/again
    """
    import sys

    from faceguide.cache.reader import FaceCache
    from faceguide.train.cal.cal_run import (
        CalRun,
        default_crop,
        run_cal,
    )
    from faceguide.train.cal.cal_step import CalSettings
    from faceguide.train.data.augment import Augmentation
    from faceguide.train.distributed import from_environment, joined

    chosen = dict(options["guides"])
    if options["contrastive_pairs"] and "contrastive" not in chosen:
        raise click.UsageError("--contrastive-pairs needs --guide contrastive")
    if options["contrastive_split"] and not options["contrastive_pairs"]:
        raise click.UsageError("--contrastive-split belongs to --contrastive-pairs")
    processes = from_environment()
    device = device_of(options, processes)
    cache = FaceCache.open(options["cache_directory"])
    options["crop"] = options["crop"] or default_crop(cache)
    recipe = CalSettings(
        Augmentation(options["crop"]),
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
    listed = None
    if options["contrastive_pairs"]:
        split = options["contrastive_split"]
        if split is None and not options["pairs"]:
            split = options["pairs_split"]  # the one option there was for both lists
        path = options["contrastive_pairs"]
        listed, _ = pairs_of(cache, path, split, processes.first)
    pairs = verification_pairs(cache, options, processes.first)
    guided = ["faces", "guidance"] if recipe.guidance.active else ["faces"]
    record = record_of(options, {"cache_directory": guided, "eval_cache": ["faces"]})
    with joined(processes, device):
        result = run_cal(
            cache,
            options["directory"],
            run,
            loop_settings(options),
            device=device,
            processes=processes,
            pairs=pairs,
            contrastive_pairs=listed,
            argv=sys.argv,
            record=record,
        )
    if processes.first:
        tell(result, "weights", as_json=options["as_json"])


def _guidance(chosen: dict[str, float], options: dict[str, Any]) -> Any:
    from faceguide.train.cal.attention_guidance import GuidanceSettings

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


main.add_command(
    submit_group(
        "train",
        (cal_command, oaml_command),
        "Train in a Slurm job, a process per GPU of each node; it is requeued until it is done.",
    )
)
