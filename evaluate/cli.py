"""`evaluate`: how well does a network recognise faces, and can the figure be trusted?"""

from __future__ import annotations

from pathlib import Path

import click

from faceguide import __version__
from faceguide.cache.reader import FaceCache
from faceguide.core.commands.allocator import keep_freed_memory
from faceguide.core.commands.console import Group, echo_json, interruptible, printable
from faceguide.core.commands.settings import settings
from faceguide.core.commands.shared_options import (
    CACHES,
    FOLDER,
    OUT_FILE,
    Outcome,
    Output,
    Seed,
)
from faceguide.core.commands.slurm import Job, Request, submit_group
from faceguide.core.files import write_json
from faceguide.evaluate.attribution import attribution_commands
from faceguide.evaluate.attribution.one_pair.explain_command import explain_command
from faceguide.evaluate.calibrate.calibrate_command import calibrate_command
from faceguide.evaluate.command_output import show
from faceguide.evaluate.decisions.decide_command import decide_command
from faceguide.evaluate.decisions.groups_command import groups_command
from faceguide.evaluate.evaluation_options import (
    FIT_IN_PARTS,
    NetworkOptions,
    RunOptions,
    ScoreOptions,
    SearchOptions,
    Tables,
    VerifiedPairs,
    check,
)
from faceguide.evaluate.lookalikes import lookalikes_command
from faceguide.evaluate.merge_command import merge_command
from faceguide.evaluate.network_commands import describe_command, networks_command
from faceguide.evaluate.occluded.occluded_command import occluded_command
from faceguide.evaluate.score.matcher_options import CachedMatcherOptions, TemplateOptions
from faceguide.evaluate.suite.suite_command import suite_command
from faceguide.evaluate.surround.surround_command import surround_command


@click.group(cls=Group)
@click.version_option(__version__, prog_name="faceguide")
def main() -> None:
    """Measure a network on the faces of a cache: pairs, searches, templates, comparisons.

    \b
    Example:
      evaluate verification cache/ --pairs pairs.txt --backbone ir_50 --weights ir50.ckpt --out lfw/
      evaluate report lfw/ --out lfw.html
    """
    keep_freed_memory()


@main.command("embed")
@click.argument("directory", metavar="CACHE", type=CACHES)
@click.option("--maps", is_flag=True, help="Also store feature maps, 50 KB per face.")
@settings(network=NetworkOptions, run=RunOptions, output=Output)
def embed_command(
    directory: Path, maps: bool, network: NetworkOptions, run: RunOptions, output: Output
) -> None:
    """Embed every face of CACHE; other commands reuse it by --embeddings.

    If the weights have an occlusion head, its visibility is stored too. Rerun the same command to
    resume.

    \b
    Examples:
      evaluate embed cache/ --backbone mobilefacenet --weights mobilefacenet.pt --out faces/
      evaluate embed cache/ --weights run/ --device cuda --part 3/20 --out faces/
    """
    from faceguide.evaluate import runs

    cache = FaceCache.open(directory)
    loaded = network.load()
    groups = {"plain", "embedding"} | ({"map"} if maps else set())
    if loaded.occlusion_head is not None:
        groups.add("visibility")
    with interruptible():
        record = runs.run_embed(cache, loaded, run, frozenset(groups))
    show("embed", record, run.out, output)


@main.command("verification")
@click.argument("directory", metavar="CACHE", type=CACHES)
@settings(
    listed=VerifiedPairs,
    network=NetworkOptions,
    options=CachedMatcherOptions,
    run=ScoreOptions,
    output=Outcome,
)
def verification_command(
    directory: Path,
    listed: VerifiedPairs,
    network: NetworkOptions,
    options: CachedMatcherOptions,
    run: ScoreOptions,
    output: Outcome,
) -> None:
    """Score pairs of faces of CACHE: k-fold accuracy, AUC, EER, TAR at FAR, thresholds.

    PAIRS is LFW's pairs.txt, lines of `path path 0|1`, a CSV (fold, a, b, same), a list of CALFW
    or CPLFW, ND-TWIN's JSON or an insightface .bin. Pairs that cannot be scored are counted and
    named in left_out.csv, doubtful ones in doubtful.csv; the exit code is 3 for any of the first,
    and for more than 1 % that contradict the labels of CACHE.

    \b
    Examples:
      evaluate verification cache/ --pairs pairs.csv --backbone ir_50 --weights ir50.ckpt --out a/
      evaluate verification cache/ --pairs pairs.csv --weights run/ --matcher visible-embedding \\
        --out b/ --embeddings a/
      evaluate verification cache/ --pairs pairs.csv --weights run/ --matcher fused \\
        --fuse cosine=0.6 --fuse qaconv+occlusion=0.4 --out c/
    """
    from faceguide.evaluate import runs

    cache = FaceCache.open(directory)
    check(options, run)
    with interruptible():
        record = runs.run_verification(cache, network.load(), listed, options, run)
    show("verification", record, run.out, output)


@main.command("identification")
@click.argument("directory", metavar="CACHE", type=CACHES)
@settings(
    lists=SearchOptions,
    network=NetworkOptions,
    options=CachedMatcherOptions,
    run=ScoreOptions,
    output=Outcome,
)
def identification_command(
    directory: Path,
    lists: SearchOptions,
    network: NetworkOptions,
    options: CachedMatcherOptions,
    run: ScoreOptions,
    output: Outcome,
) -> None:
    """Search faces of CACHE among enrolled ones: rank 1 to 20, TPIR, by pose and occlusion.

    Without --gallery and --probes, the first image of each identity is enrolled and all others
    are searched for.

    \b
    Examples:
      evaluate identification cache/ --backbone ir_50 --weights ir50.ckpt --out id/
      evaluate identification cache/ --gallery g.csv --probes p.csv --weights run/ --out id/
    """
    from faceguide.evaluate import runs

    lists.check()
    cache = FaceCache.open(directory)
    check(options, run)
    with interruptible():
        record = runs.run_identification(cache, network.load(), lists, options, run)
    show("identification", record, run.out, output)


@main.command("ijb")
@click.argument("folder", type=FOLDER)
@settings(network=NetworkOptions, options=TemplateOptions, run=ScoreOptions, output=Outcome)
def ijb_command(
    folder: Path,
    network: NetworkOptions,
    options: TemplateOptions,
    run: ScoreOptions,
    output: Outcome,
) -> None:
    """Run IJB-B or IJB-C, 1:1 and 1:N, from FOLDER with loose_crop/ and meta/.

    cosine pools embeddings: mean within a medium, sum over media. Every other matcher compares
    pairs of images: a template score is the mean over all pairs of at most --images-per-template
    images of either template, one per medium, best detector score first.

    \b
    Examples:
      evaluate ijb IJBC/ --backbone ir_101 --weights ir101.ckpt --device cuda --out ijbc/
      evaluate ijb IJBC/ --weights run/ --matcher qaconv+occlusion --out ijbc-local/
    """
    from faceguide.evaluate.ijb.ijb_run import run_ijb

    check(options, run)
    with interruptible():
        record = run_ijb(folder, network.load(), options, run)
    show("ijb", record, run.out, output)


@main.command("compare")
@click.argument("directories", metavar="RUN RUN…", nargs=-1, type=FOLDER, required=True)
@settings(made=Tables, random=Seed, output=Output)
def compare_command(
    directories: tuple[Path, ...], made: Tables, random: Seed, output: Output
) -> None:
    """Test verification runs over the same pairs against each other; write tables and the ROC.

    McNemar's exact test with Holm's correction, and differences with intervals from a bootstrap
    over identities. Writes comparison.json, runs.csv, runs.tex, tests.csv, tests.tex, roc.pdf and
    roc.png.

    \b
    Example:
      evaluate compare cosine/ visible/ --out comparison/
    """
    from faceguide.evaluate.report import compare, figures, tables

    if len(directories) < 2:
        raise click.UsageError("a comparison needs two runs or more")
    made.check()
    with interruptible():
        comparison = compare.compare_runs(list(directories), made.replicates, random.seed)
        out = made.out
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / compare.COMPARISON, comparison)
        caption = f"Verification on {comparison['pairs']:,} pairs, per cent."
        shown = {
            "runs": (tables.verification_table(comparison), caption),
            "tests": (
                tables.test_table(comparison),
                "Paired tests: McNemar exact, Holm; differences with 95 % intervals.",
            ),
        }
        for stem, (table, title) in shown.items():
            tables.save_table(table, title, out, stem)
        names = (printable(run["name"]) for run in comparison["runs"])
        curves, least = compare.roc_curves(dict(zip(names, directories, strict=True)))
        figures.save(figures.roc_figure(curves, least), out, "roc")
    if output.as_json:
        echo_json(comparison)
    else:
        texts = [tables.to_text(table) for table, _ in shown.values()]
        if note := tables.refused_note(comparison):
            texts[0] += f"\n{note}"
        click.echo("\n\n".join(texts))


@main.command("report")
@click.argument("directories", metavar="RUN…", nargs=-1, type=FOLDER, required=True)
@click.option("--out", type=OUT_FILE, required=True, help="HTML file.")
@click.option("--title", default="Face recognition: evaluation", show_default=True)
@click.option(
    "--hardest",
    type=click.IntRange(0, 500),
    default=12,
    show_default=True,
    help="Hardest genuine and impostor pairs to show per run.",
)
def report_command(directories: tuple[Path, ...], out: Path, title: str, hardest: int) -> None:
    """Show runs in one HTML file: tables, curves, and the hardest pairs with their crops.

    The file needs no network. It contains face images: share it with care.

    \b
    Example:
      evaluate report cosine/ visible/ --out report.html
    """
    from faceguide.evaluate.report.report_page import write_report

    write_report(directories, out, title, hardest)
    click.echo(f"{printable(out)}: {out.stat().st_size / 1e6:.1f} MB")


def _jobs(request: Request) -> dict[str, Job]:
    """Parts → merge, which writes the results or names the missing parts and exits with 1."""
    if "--fit-pairs" in request.typed:
        raise click.UsageError(FIT_IN_PARTS)
    name = f"evaluate-{request.name}"
    jobs = {"parts": Job(name, request.words(), "array")}
    # Scores that are more than products of embeddings wait until all faces are embedded.
    cosine = request.typed.get("--matcher") in (None, ("--matcher=cosine",))
    if not cosine and request.name != "attribution":
        jobs["scores"] = Job(f"{name}-scores", request.words(), "array", "any")
    # The merge reports what was left out; that is no failure of a job.
    merge = ("evaluate", "merge", f"--parts={request.limits.parts}", "--allow-failures")
    jobs["merge"] = Job(f"{name}-merge", (*merge, str(request.results)), after="any")
    return jobs


attribution_commands.register(main)
for command in (
    *(decide_command, groups_command, occluded_command),
    *(calibrate_command, describe_command, explain_command, lookalikes_command, merge_command),
    *(networks_command, suite_command, surround_command),
):
    main.add_command(command)
main.add_command(
    submit_group(
        "evaluate",
        main.commands.values(),
        "Work as a Slurm array, then merge what its parts found or name the missing ones.",
        _jobs,
    )
)
