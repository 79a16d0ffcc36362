"""The commands `train …`. Nothing here loads torch before a run starts: --help must not wait."""

from __future__ import annotations

from dataclasses import replace

import click

from faceguide import __version__
from faceguide.core.commands.console import Group
from faceguide.core.commands.settings import settings
from faceguide.core.commands.shared_options import Device
from faceguide.core.commands.slurm import submit_group
from faceguide.train.cal.cal_settings import CalRun, ContrastiveList
from faceguide.train.distil_command import distil_command
from faceguide.train.export_command import export_command
from faceguide.train.oaml_command import oaml_command
from faceguide.train.run.repeat import record_of
from faceguide.train.training_settings import LoopSettings, Output, Source, Verification


@click.group(cls=Group)
@click.version_option(__version__, prog_name="faceguide")
def main() -> None:
    """Learn from a cache.

    \b
    Example:
      train cal cache/ --out runs/cal --guide regions-log
    """


@main.command("cal")
@settings(
    {"min_images": 1, "batch_size": 16, "weight_decay": 1e-5, "epochs": 160},
    source=Source, output=Output, run=CalRun, contrastive=ContrastiveList, asked=Verification,
    loop=LoopSettings, machine=Device,
)  # fmt: skip
def cal_command(
    source: Source,
    output: Output,
    run: CalRun,
    contrastive: ContrastiveList,
    asked: Verification,
    loop: LoopSettings,
    machine: Device,
) -> None:
    """Train Counterfactual Attention Learning on CACHE, optionally guided by landmarks.

    Landmarks are used only in training; at inference the model needs none. Rerun the same command
    to resume. Several processes: start with torchrun or srun.

    \b
    Examples:
      train cal cache/ --out runs/twins --init resnet101.pth --guide regions-log --pairs pairs.csv
      torchrun --nproc-per-node 4 -m faceguide train cal cache/ --out runs/four --amp bf16
      train cal --from runs/twins/run.json --out runs/rerun
    """
    if contrastive.contrastive_pairs and not run.recipe.guidance.weight("contrastive"):
        raise click.UsageError("--contrastive-pairs needs --guide contrastive")
    if contrastive.contrastive_split and not contrastive.contrastive_pairs:
        raise click.UsageError("--contrastive-split belongs to --contrastive-pairs")

    from faceguide.train.cal.cal_run import default_crop, run_cal
    from faceguide.train.distributed import joined
    from faceguide.train.listed_pairs import contrastive_pairs
    from faceguide.train.run.run_context import RunContext

    context = RunContext.of(source, output, asked, loop, machine)
    run = replace(run, crop=run.crop or default_crop(context.cache))
    listed = None
    if run.recipe.guidance.weight("contrastive"):
        listed = contrastive_pairs(context.cache, contrastive, asked, context.processes.first)
    guided = ["faces", "guidance"] if run.recipe.guidance.guides else ["faces"]
    record = record_of(
        {"cache_directory": guided, "eval_cache": ["faces"]},
        source, run, contrastive, asked, loop, machine,
    )  # fmt: skip
    with joined(context.processes, context.device):
        result = run_cal(replace(context, record=record), run, listed)
    if context.processes.first:
        output.report(result, "weights")


for command in (oaml_command, distil_command, export_command):
    main.add_command(command)
main.add_command(
    submit_group(
        "train",
        (cal_command, oaml_command, distil_command),
        "Train in a Slurm job, a process per GPU of each node; it is requeued until it is done.",
    )
)
