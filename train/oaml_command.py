"""The command `train oaml`; registered by the group in `cli`."""

from __future__ import annotations

from dataclasses import replace

import click
from click.core import ParameterSource

from faceguide.core.commands.console import Command
from faceguide.core.commands.settings import settings
from faceguide.core.commands.shared_options import Device
from faceguide.train.oaml.oaml_settings import OamlRun, SecondCache
from faceguide.train.run.repeat import record_of
from faceguide.train.training_settings import LoopSettings, Output, Source, Verification


@click.command("oaml", cls=Command)
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
        output.report(result, "directory")
