"""The command `train distil`; registered by the group in `cli`."""

from __future__ import annotations

from dataclasses import replace

import click

from faceguide.core.commands.console import Command, say
from faceguide.core.commands.settings import REQUIRED, settings
from faceguide.core.commands.shared_options import Device
from faceguide.train.distil.distil_settings import DistilRun, MapFolder
from faceguide.train.run.repeat import record_of
from faceguide.train.training_settings import Output, Source, StepSettings, Verification


@click.command("distil", cls=Command)
@settings(
    {"init": REQUIRED, "batch_size": 32, "steps": 400},
    source=Source, output=Output, run=DistilRun, kept=MapFolder, asked=Verification,
    loop=StepSettings, machine=Device,
)  # fmt: skip
def distil_command(
    source: Source,
    output: Output,
    run: DistilRun,
    kept: MapFolder,
    asked: Verification,
    loop: StepSettings,
    machine: Device,
) -> None:
    """Teach a released network to answer covered faces, and faces in other surroundings, as before.

    Its own answers to the unaltered faces of CACHE are the targets; no labels are needed, nor
    landmarks at inference. Minutes on a CPU. Rerun the same command to resume.

    \b
    Examples:
      train distil cache/ --init mobilefacenet.pt --out runs/distil
      train distil cache/ --init adaface_ir50.ckpt --colour bgr --out runs/hair --surround-weight 1
      train distil cache/ --init runs/oaml --out runs/covers --alter cover=0.75 --cover niqab
      evaluate verification cache/ --pairs pairs.csv --weights runs/distil --out lfw/
    """
    from faceguide.train.distil.distil_run import run_distil
    from faceguide.train.distil.map_batches import EPOCH
    from faceguide.train.distributed import joined
    from faceguide.train.run.run_context import RunContext
    from faceguide.train.training_settings import LoopSettings

    assert loop.steps is not None  # it has a default here
    counted = LoopSettings(**vars(loop), epochs=-(-loop.steps * loop.accumulate // EPOCH))
    context = RunContext.of(source, output, asked, counted, machine)
    read = {"cache_directory": ["faces"], "eval_cache": ["faces"]}
    record = record_of(read, source, run, asked, loop, machine)
    with joined(context.processes, context.device):
        result = run_distil(replace(context, record=record), run, kept.maps)
    if not context.processes.first:
        return
    say(
        "Note: the scale of scores has moved, so a threshold of the released network lets more "
        "impostors in (on LFW 0.0014 to 0.0022 in place of 0.001): fit a new one with `evaluate "
        "calibrate`"
    )
    output.report(result, "weights")
