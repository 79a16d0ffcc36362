"""The commands `train …`. Nothing here loads torch before a run starts: --help must not wait."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click
from click.core import ParameterSource

from faceguide import __version__
from faceguide.core.commands.console import Group, echo_json
from faceguide.core.commands.settings import settings
from faceguide.core.commands.shared_options import Device
from faceguide.core.commands.slurm import submit_group
from faceguide.train.cal.cal_settings import CalRun, ContrastiveList
from faceguide.train.distil_command import distil_command
from faceguide.train.export_command import export_command
from faceguide.train.oaml.oaml_settings import OamlRun, SecondCache
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
        _report(result, "weights", output)


@main.command("oaml")
@settings(
    {"min_images": 2, "batch_size": 64, "weight_decay": 5e-4, "epochs": 26},
    source=Source, output=Output, run=OamlRun, covered=SecondCache, asked=Verification,
    loop=LoopSettings, machine=Device,
)  # fmt: skip
def oaml_command(
    source: Source,
    output: Output,
    run: OamlRun,
    covered: SecondCache,
    asked: Verification,
    loop: LoopSettings,
    machine: Device,
) -> None:
    """Train AdaFace, QAConv and a head that predicts which cells of a face can be seen.

    CACHE holds the identities to recognise; masks are learnt from --niqab, or from CACHE itself.
    Rerun the same command to resume. Several processes: start with torchrun or srun.

    \b
    Examples:
      train oaml cache/ --out runs/oaml --init adaface_ir50_ms1mv2.ckpt --niqab niqab/ --lr 0.01
      train oaml niqab/ --out runs/head --train occlusion --init adaface_ir50_ms1mv2.ckpt
      torchrun --nproc-per-node 4 -m faceguide.train oaml cache/ --out runs/four --amp bf16
      train oaml cache/ --out runs/whole --init runs/heads --lr 0.001
      train oaml cache/ --out runs/own --backbone my_networks:build --lr 0.01
      train oaml --from runs/oaml/run.json --out runs/rerun
    """
    given = click.get_current_context().get_parameter_source("backbone")
    # A record that names code of the user is no reason to run it; the command line is.
    if ":" in run.backbone and given is not ParameterSource.COMMANDLINE:
        raise click.UsageError(
            f"that run trained a network of your own, {run.backbone}; give --backbone "
            f"{run.backbone} to import it"
        )

    from faceguide.cache.reader import FaceCache
    from faceguide.train.distributed import joined
    from faceguide.train.oaml.oaml_models import name_of
    from faceguide.train.oaml.oaml_run import run_oaml
    from faceguide.train.run.run_context import RunContext

    context = RunContext.of(source, output, asked, loop, machine)
    run = replace(run, rate=run.start_rate, backbone=name_of(run, given))
    masked = ["faces", "occlusion"]
    record = record_of(
        {"cache_directory": masked, "niqab": masked, "eval_cache": ["faces"]},
        source, run, covered, asked, loop, machine,
    )  # fmt: skip
    second = FaceCache.open(covered.niqab) if covered.niqab else None
    with joined(context.processes, context.device):
        result = run_oaml(replace(context, record=record), run, second)
    if context.processes.first:
        _report(result, "directory", output)


def _report(result: dict[str, Any], what: str, output: Output) -> None:
    """Print the outcome: as JSON, or the value under `what` and the number of steps."""
    if output.as_json:
        echo_json(result)
    else:
        click.echo(f"{result[what]}: after {result['steps']} steps")


main.add_command(distil_command)
main.add_command(export_command)
main.add_command(
    submit_group(
        "train",
        (cal_command, oaml_command, distil_command),
        "Train in a Slurm job, a process per GPU of each node; it is requeued until it is done.",
    )
)
