"""`evaluate`: how well does a network recognise faces, and can the figure be trusted?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from faceguide import __version__
from faceguide.cache.reader import FaceCache
from faceguide.core.commands.console import (
    Group,
    echo_json,
    interruptible,
    printable,
)
from faceguide.core.commands.submit import submit_group
from faceguide.core.files import (
    write_bytes,
    write_json,
)
from faceguide.evaluate.attribution import attribution_commands
from faceguide.evaluate.command_output import show
from faceguide.evaluate.evaluate_jobs import evaluate_jobs
from faceguide.evaluate.evaluation_options import (
    FILE,
    FOLDER,
    OUT,
    load,
    matcher_options,
    network_options,
    part_option,
    prepare,
    progress_bar,
    visibility_option,
)
from faceguide.evaluate.merge_command import merge_command


@click.group(cls=Group)
@click.version_option(__version__, prog_name="faceguide")
def main() -> None:
    """Measure a network on the faces of a cache: pairs, searches, templates, comparisons.

    \b
    Example:
      evaluate verification cache/ --pairs pairs.txt --backbone ir_50 --weights ir50.ckpt --out lfw/
      evaluate report lfw/ --out lfw.html
    """


@main.command("embed")
@click.argument("directory", metavar="CACHE", type=FOLDER)
@click.option("--maps", is_flag=True, help="Also feature maps, 50 KB a face.")
@click.option("--out", type=OUT, required=True, help="Run directory.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@part_option
@network_options
def embed_command(
    directory: Path,
    maps: bool,
    out: Path,
    as_json: bool,
    part: tuple[int, int],
    **network_arguments: Any,
) -> None:
    """Embed every face of CACHE; other commands reuse it by --embeddings.

    With an occlusion head in the weights, its visibility is kept too. Running the same command
    again goes on where it stopped.

    \b
    Examples:
      evaluate embed cache/ --backbone mobilefacenet --weights mobilefacenet.pt --out faces/
      evaluate embed cache/ --weights run/ --device cuda --part 3/20 --out faces/
    """
    from faceguide.evaluate import runs
    from faceguide.evaluate.score.prepare import (
        MatcherOptions,
        RunOptions,
    )

    cache = FaceCache.open(directory)
    network, batch_size = load(**network_arguments)
    groups = {"plain", "embedding"} | ({"map"} if maps else set())
    if network.occlusion_head is not None:
        groups.add("visibility")
    options = MatcherOptions(batch_size=batch_size)
    with interruptible():
        run = RunOptions(out, progress=progress_bar, part=part)
        record = runs.run_embed(cache, network, options, run, frozenset(groups))
    show("embed", record, out, as_json)


@main.command("verification")
@click.argument("directory", metavar="CACHE", type=FOLDER)
@click.option("--pairs", type=FILE, required=True, help="The list of pairs.")
@click.option("--split", help="Of ND-TWIN's pairs: train, val or test.")
@visibility_option
@matcher_options
def verification_command(
    directory: Path,
    pairs: Path,
    split: str | None,
    allow_failures: bool,
    as_json: bool,
    **rest: Any,
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
    network, options, run = prepare(**rest)
    with interruptible():
        record = runs.run_verification(cache, network, pairs, split, options, run)
    show("verification", record, run.out, as_json, allow_failures)


@main.command("identification")
@click.argument("directory", metavar="CACHE", type=FOLDER)
@click.option("--gallery", type=FILE, help="CSV of enrolled images: key, identity if need be.")
@click.option("--probes", type=FILE, help="CSV of images to search for, likewise.")
@click.option(
    "--unenrolled",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    show_default=True,
    help="Without lists: share of persons that are not enrolled, for open-set figures.",
)
@visibility_option
@matcher_options
def identification_command(
    directory: Path,
    gallery: Path | None,
    probes: Path | None,
    unenrolled: float,
    allow_failures: bool,
    as_json: bool,
    **rest: Any,
) -> None:
    """Search faces of CACHE among enrolled ones: rank 1 to 20, open-set TPIR, by pose and cover.

    Without --gallery and --probes, the first image of each identity is enrolled and all others
    are searched for.

    \b
    Examples:
      evaluate identification cache/ --backbone ir_50 --weights ir50.ckpt --out id/
      evaluate identification cache/ --gallery g.csv --probes p.csv --weights run/ --out id/
    """
    from faceguide.evaluate import runs

    if (gallery is None) != (probes is None):
        raise click.UsageError("--gallery and --probes belong together")
    if gallery is not None and unenrolled:
        raise click.UsageError("--unenrolled is for runs without lists; leave it out")
    cache = FaceCache.open(directory)
    network, options, run = prepare(**rest)
    lists = None if gallery is None or probes is None else (gallery, probes)
    with interruptible():
        record = runs.run_identification(cache, network, lists, unenrolled, options, run)
    show("identification", record, run.out, as_json, allow_failures)


@main.command("ijb")
@click.argument("folder", type=FOLDER)
@click.option("--norm/--no-norm", default=True, show_default=True, help="Weigh by norm.")
@click.option(
    "--detector-score/--no-detector-score",
    default=True,
    show_default=True,
    help="Weigh by detector score.",
)
@click.option(
    "--images-per-template",
    type=click.IntRange(1),
    default=4,
    show_default=True,
    help="Representatives of a template for all matchers but cosine.",
)
@matcher_options
def ijb_command(
    folder: Path,
    norm: bool,
    detector_score: bool,
    images_per_template: int,
    allow_failures: bool,
    as_json: bool,
    **rest: Any,
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
    from faceguide.evaluate.ijb.ijb_protocol import TemplateOptions
    from faceguide.evaluate.ijb.ijb_run import run_ijb

    network, options, run = prepare(visibility="auto", **rest)
    template = TemplateOptions(options.flip, norm, detector_score, images_per_template)
    with interruptible():
        record = run_ijb(folder, network, options, template, run)
    show("ijb", record, run.out, as_json, allow_failures)


@main.command("compare")
@click.argument("directories", metavar="RUN RUN…", nargs=-1, type=FOLDER, required=True)
@click.option("--out", type=OUT, required=True, help="Directory for tables and figures.")
@click.option(
    "--bootstrap",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="Draws of persons; evaluate report takes the default.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the bootstrap, likewise.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def compare_command(
    directories: tuple[Path, ...], out: Path, bootstrap: int, seed: int, as_json: bool
) -> None:
    """Test verification runs over the same pairs against each other; write tables and the ROC.

    McNemar's exact test with Holm's correction, and differences with intervals from a bootstrap
    over persons. Writes comparison.json, runs.csv, runs.tex, tests.csv, tests.tex, roc.pdf and
    roc.png.

    \b
    Example:
      evaluate compare cosine/ visible/ --out comparison/
    """
    from faceguide.evaluate.metrics import roc
    from faceguide.evaluate.report import (
        compare,
        figures,
        tables,
    )
    from faceguide.evaluate.verification import load_scores

    if len(directories) < 2:
        raise click.UsageError("a comparison needs two runs or more")
    with interruptible():
        comparison = compare.compare_runs(list(directories), bootstrap, seed)
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / compare.COMPARISON, comparison)
        caption = f"Verification on {comparison['pairs']:,} pairs, per cent."
        made = {
            "runs": (tables.verification_table(comparison), caption),
            "tests": (
                tables.test_table(comparison),
                "Paired tests: McNemar exact, Holm; differences with 95 % intervals.",
            ),
        }
        for stem, (table, title) in made.items():
            csv_bytes = tables.to_csv(table).encode("utf-8", "surrogateescape")
            write_bytes(out / f"{stem}.csv", csv_bytes)
            write_bytes(out / f"{stem}.tex", tables.to_latex(table, title).encode("utf-8"))
        curves, least = {}, 1.0
        for run, path in zip(comparison["runs"], directories, strict=True):
            scores = load_scores(path)
            ranking = roc.rank(scores["score"], scores["same"])
            curves[printable(run["name"])] = roc.curve(ranking)
            least = min(least, 1.0 / len(ranking.impostor))
        figures.save(figures.roc_figure(curves, least), out, "roc")
    if as_json:
        echo_json(comparison)
    else:
        texts = [tables.to_text(table) for table, _ in made.values()]
        if note := tables.refused_note(comparison):
            texts[0] += f"\n{note}"
        click.echo("\n\n".join(texts))


@main.command("report")
@click.argument("directories", metavar="RUN…", nargs=-1, type=FOLDER, required=True)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="HTML file."
)
@click.option("--title", default="Face recognition: evaluation", show_default=True)
@click.option(
    "--hardest",
    type=click.IntRange(0, 500),
    default=12,
    show_default=True,
    help="Pairs shown of either kind per run.",
)
def report_command(directories: tuple[Path, ...], out: Path, title: str, hardest: int) -> None:
    """Show runs in one HTML file: tables, curves, the hardest pairs with their crops.

    The file needs no network. It holds face images: mind who gets it.

    \b
    Example:
      evaluate report cosine/ visible/ --out report.html
    """
    from faceguide.evaluate.report.report_page import write_report

    write_report(directories, out, title, hardest)
    click.echo(f"{printable(out)}: {out.stat().st_size / 1e6:.1f} MB")


attribution_commands.register(main)
main.add_command(merge_command)
main.add_command(
    submit_group(
        "evaluate",
        main.commands.values(),
        "Work as a Slurm array, then merge what its parts found or name the missing ones.",
        evaluate_jobs,
    )
)
