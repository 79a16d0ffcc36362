"""`evaluate merge`: the results of a run whose parts are done, from its run.json only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from faceguide.cache.reader import FaceCache
from faceguide.core.commands.run_directory import read_run
from faceguide.core.commands.settings import refixed
from faceguide.core.errors import EvaluationError
from faceguide.evaluate import runs
from faceguide.evaluate.attribution import run as attribution
from faceguide.evaluate.evaluation_options import PairOptions, ScoreOptions, SearchOptions
from faceguide.evaluate.ijb.ijb_run import run_ijb
from faceguide.evaluate.score.matcher_options import MatcherOptions, TemplateOptions
from faceguide.train.models.loading.network import Network, load_network
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
    network = load_network(
        about["backbone"], Path(about["weights"]),
        colour=_asked_colour(about), output=about.get("onnx_output"),
    )  # fmt: skip
    _unchanged(out, about["weights"], network.sha256, about["weights_sha256"])
    return command, again[command](out, about, network)


def _asked_colour(about: dict[str, Any]) -> str | None:
    """What --colour said; what the weights say by themselves they still say."""
    found: str | None = about["colour"] if about["colour_from"] == "option" else None
    return found


def _unchanged(out: Path, what: str, now: str, then: str) -> None:
    if now != then:
        raise EvaluationError(
            f"{out}: {what} was changed since the parts ran; rerun them in another --out"
        )


def _cache(out: Path, about: dict[str, Any]) -> FaceCache:
    cache = FaceCache.open(about["cache"])
    _unchanged(out, about["cache"], cache_hash(cache), about["cache_manifest"])
    return cache


def _settings(out: Path, about: dict[str, Any], *kinds: type) -> list[Any]:
    """The settings of a run, with a `ScoreOptions` that computes nothing."""
    place = {"out": str(out), "embeddings": about["embeddings"], "merging": True}
    return refixed({**about["settings"], **place}, out, *kinds, ScoreOptions)


def _embed(out: Path, about: dict[str, Any], network: Network) -> dict[str, Any]:
    (run,) = _settings(out, about)
    return runs.run_embed(_cache(out, about), network, run, frozenset(about["groups"]))


def _verification(out: Path, about: dict[str, Any], network: Network) -> dict[str, Any]:
    settings = _settings(out, about, PairOptions, MatcherOptions)
    return runs.run_verification(_cache(out, about), network, *settings)


def _identification(out: Path, about: dict[str, Any], network: Network) -> dict[str, Any]:
    settings = _settings(out, about, SearchOptions, MatcherOptions)
    return runs.run_identification(_cache(out, about), network, *settings)


def _ijb(out: Path, about: dict[str, Any], network: Network) -> dict[str, Any]:
    return run_ijb(Path(about["folder"]), network, *_settings(out, about, TemplateOptions))
