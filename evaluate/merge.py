"""`evaluate merge`: the results of a run whose parts are done, from its run.json alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from faceguide.cache.reader import FaceCache
from faceguide.core.commands.run_directory import read_run
from faceguide.core.errors import EvaluationError
from faceguide.evaluate import runs
from faceguide.evaluate.attribution import run as attribution
from faceguide.evaluate.ijb.ijb_protocol import TemplateOptions
from faceguide.evaluate.ijb.ijb_run import run_ijb
from faceguide.evaluate.score.network import (
    Network,
    load_network,
)
from faceguide.evaluate.score.prepare import (
    MatcherOptions,
    RunOptions,
)
from faceguide.train.run.training_data import cache_hash


def merge_run(out: Path) -> tuple[str, dict[str, Any]]:
    """Gather what parts have computed; merging twice writes the same bytes.

    Args:
        out: the run directory.

    Returns:
        The command whose run it is, and what that command returns.

    Raises:
        EvaluationError: when it is no run of parts, or its cache or weights were changed since.
        Unfinished: when blocks are missing.
    """
    about = read_run(out)
    command = str(about.get("command"))
    if command == attribution.COMMAND:
        return command, attribution.merge_run(out)
    again = {
        "embed": _embed,
        "verification": _verification,
        "identification": _identification,
        "ijb": _ijb,
    }
    if command not in again or not about.get("weights"):
        raise EvaluationError(
            f"{out}: not a run of embed, verification, identification, ijb or attribution that "
            f"can be merged (its command is {command!r})"
        )
    network = load_network(about["backbone"], Path(about["weights"]), colour=_asked_colour(about))
    _unchanged(out, about["weights"], network.sha256, about["weights_sha256"])
    settings, embeddings = about["settings"], about["embeddings"]
    run = RunOptions(
        out,
        None if embeddings is None else Path(embeddings),
        settings.get("replicates", 0),
        part=None,
    )
    return command, again[command](about, network, run)


def _asked_colour(about: dict[str, Any]) -> str | None:
    """What --colour said; what the weights tell by themselves they tell again."""
    found: str | None = about["colour"] if about["colour_from"] == "option" else None
    return found


def _unchanged(out: Path, what: str, now: str, then: str) -> None:
    if now != then:
        raise EvaluationError(
            f"{out}: {what} was changed since the parts ran; run them again in another --out"
        )


def _cache(about: dict[str, Any], run: RunOptions) -> FaceCache:
    cache = FaceCache.open(about["cache"])
    _unchanged(run.out, about["cache"], cache_hash(cache), about["cache_manifest"])
    return cache


def _options(settings: dict[str, Any]) -> MatcherOptions:
    """The options whose `settings` these are."""

    def path(name: str) -> Path | None:
        return None if settings[name] is None else Path(settings[name])

    return MatcherOptions(
        settings["matcher"],
        settings["flip"],
        settings["visibility"],
        settings["fuse"],
        path("fusion_scales"),
        path("fit_pairs"),
        settings["fit_split"],
        path("fit_cache"),
        seed=settings["seed"],
    )


def _embed(about: dict[str, Any], network: Network, run: RunOptions) -> dict[str, Any]:
    groups = frozenset(about["groups"])
    return runs.run_embed(_cache(about, run), network, MatcherOptions(), run, groups)


def _verification(about: dict[str, Any], network: Network, run: RunOptions) -> dict[str, Any]:
    settings = about["settings"]
    return runs.run_verification(
        _cache(about, run),
        network,
        Path(settings["pairs"]),
        settings["split"],
        _options(settings),
        run,
    )


def _identification(about: dict[str, Any], network: Network, run: RunOptions) -> dict[str, Any]:
    settings = about["settings"]
    gallery, probes = settings["gallery"], settings["probes"]
    return runs.run_identification(
        _cache(about, run),
        network,
        None if gallery is None else (Path(gallery), Path(probes)),
        settings["unenrolled"],
        _options(settings),
        run,
    )


def _ijb(about: dict[str, Any], network: Network, run: RunOptions) -> dict[str, Any]:
    settings = about["settings"]
    options = _options(settings)
    template = TemplateOptions(
        options.flip,
        settings["norm"],
        settings["detector_score"],
        settings["images_per_template"],
    )
    return run_ijb(Path(about["folder"]), network, options, template, run)
