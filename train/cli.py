"""The commands `train …`. Nothing here loads torch before a run starts: --help must not wait."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from faceguide import __version__
from faceguide.core.commands.console import Group, echo_json
from faceguide.core.commands.settings import settings
from faceguide.core.commands.shared_options import Device
from faceguide.core.commands.submit import submit_group
from faceguide.train.cal.cal_settings import CalRun, ContrastiveList
from faceguide.train.oaml.oaml_settings import OamlRun, SecondCache
from faceguide.train.run.repeat import record_of
from faceguide.train.training_settings import LoopSettings, Output, Source, Verification

if TYPE_CHECKING:
    import torch

    from faceguide.train.distributed import Processes


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
    """Train Counterfactual Attention Learning on CACHE, guided by landmarks if wished.

    Landmarks are used only in training; at inference the model needs none. Rerun the same command
    to resume. Several processes: start with torchrun or srun.

    \b
    Examples:
      train cal cache/ --out runs/twins --init resnet101.pth --guide regions-log --pairs pairs.csv
      torchrun --nproc-per-node 4 -m faceguide train cal cache/ --out runs/four --amp bf16
      train cal --from runs/twins/run.json --out runs/again
    """
    if contrastive.contrastive_pairs and not run.recipe.guidance.weight("contrastive"):
        raise click.UsageError("--contrastive-pairs needs --guide contrastive")
    if contrastive.contrastive_split and not contrastive.contrastive_pairs:
        raise click.UsageError("--contrastive-split belongs to --contrastive-pairs")

    from faceguide.cache.reader import FaceCache
    from faceguide.train.cal.cal_run import default_crop, run_cal
    from faceguide.train.distributed import from_environment, joined
    from faceguide.train.listed_pairs import pairs_of, verification_pairs

    processes = from_environment()
    device = _device(asked, loop, machine, processes)
    cache = FaceCache.open(source.cache_directory)
    run = replace(run, crop=run.crop or default_crop(cache))
    listed = None
    if contrastive.contrastive_pairs:
        split = contrastive.contrastive_split
        if split is None and not asked.pairs:
            split = asked.pairs_split  # the one option there was for both lists
        listed, _ = pairs_of(cache, contrastive.contrastive_pairs, split, processes.first)
    pairs = verification_pairs(cache, asked, processes.first)
    guided = ["faces", "guidance"] if run.recipe.guidance.guides else ["faces"]
    record = record_of(
        {"cache_directory": guided, "eval_cache": ["faces"]},
        source, run, contrastive, asked, loop, machine,
    )  # fmt: skip
    with joined(processes, device):
        result = run_cal(
            cache,
            output.directory,
            run,
            loop,
            device=device,
            processes=processes,
            pairs=pairs,
            contrastive_pairs=listed,
            argv=sys.argv,
            record=record,
        )
    if processes.first:
        _tell(result, "weights", output)


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
      train oaml --from runs/oaml/run.json --out runs/again
    """
    _require_asked_for(run.backbone)

    from faceguide.cache.reader import FaceCache
    from faceguide.train.distributed import from_environment, joined
    from faceguide.train.listed_pairs import verification_pairs
    from faceguide.train.oaml.oaml_run import run_oaml

    processes = from_environment()
    device = _device(asked, loop, machine, processes)
    cache = FaceCache.open(source.cache_directory)
    run = replace(run, rate=run.start_rate)
    pairs = verification_pairs(cache, asked, processes.first)
    masked = ["faces", "occlusion"]
    record = record_of(
        {"cache_directory": masked, "niqab": masked, "eval_cache": ["faces"]},
        source, run, covered, asked, loop, machine,
    )  # fmt: skip
    with joined(processes, device):
        result = run_oaml(
            cache,
            output.directory,
            run,
            loop,
            device=device,
            processes=processes,
            second=FaceCache.open(covered.niqab) if covered.niqab else None,
            pairs=pairs,
            argv=sys.argv,
            record=record,
        )
    if processes.first:
        _tell(result, "directory", output)


def _require_asked_for(backbone: str) -> None:
    """A record that names code of the user is no reason to run it; the command line is."""
    origin = click.get_current_context().get_parameter_source("backbone")
    if ":" in backbone and origin is not ParameterSource.COMMANDLINE:
        raise click.UsageError(
            f"that run trained a network of your own, {backbone}; give --backbone {backbone} to "
            "import it"
        )


def _device(
    asked: Verification, loop: LoopSettings, machine: Device, processes: Processes
) -> torch.device:
    """The device of --device, once the options fit each other and it has the precision of --amp."""
    from faceguide.train.distributed import choose_device

    if asked.eval_cache and not asked.pairs:
        raise click.UsageError("--eval-cache belongs to --pairs")
    device = choose_device(machine.device, processes)
    if loop.amp == "fp16" and device.type != "cuda":
        raise click.UsageError("--amp fp16 needs a CUDA device; choose bf16 or off")
    return device


def _tell(result: dict[str, Any], what: str, output: Output) -> None:
    """Print the outcome: as JSON, or the value under `what` and the number of steps."""
    if output.as_json:
        echo_json(result)
    else:
        click.echo(f"{result[what]}: after {result['steps']} steps")


main.add_command(
    submit_group(
        "train",
        (cal_command, oaml_command),
        "Train in a Slurm job, a process per GPU of each node; it is requeued until it is done.",
    )
)
