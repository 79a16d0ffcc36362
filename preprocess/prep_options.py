"""Options that several `prep` commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

EXISTING = click.Path(exists=True, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


def _all(command: Callable[..., Any], options: list[Any]) -> Callable[..., Any]:
    for option in reversed(options):
        command = option(command)
    return command


def job_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of every command that works shard by shard."""
    options = [
        click.option("--jobs", type=click.IntRange(1), help="Processes.  [default: all cores]"),
        click.option(
            "--part", metavar="i/N",
            help="Do only part i of N, i from 0 to N−1.  [default: all, or as a Slurm array says]",
        ),
        click.option(
            "--dask", metavar="SCHEDULER",
            help="Work on the workers of this Dask scheduler, tcp://host:8786, instead of here.",
        ),
        click.option("--allow-failures", is_flag=True, help="Exit 0 although some images failed."),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
    ]  # fmt: skip
    return _all(command, options)


prepare_option = click.option(
    "--prepare", is_flag=True, help="Only settle what all parts share; make no shard."
)


def guidance_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """How heatmaps and regions are drawn."""
    options = [
        click.option(
            "--grid", type=click.IntRange(1, 1024), default=28, show_default=True,
            help="Cells on a side of heatmaps and region masks.",
        ),
        click.option(
            "--regions", type=click.Choice(["hull", "points"]), default="hull", show_default=True,
            help="hull: filled contours of eyes, nose and mouth; points: discs at landmarks, of "
            "the radius in --points.",
        ),
        click.option(
            "--points", "points_file", type=EXISTING,
            help="JSON file of landmark indices, and of radius and sigmas in pixels at 448, "
            "instead of ours; `prep guidance --help` shows one.",
        ),
    ]  # fmt: skip
    return _all(command, options)


def mask_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What the values of masks mean, and which faces need none."""
    options = [
        click.option(
            "--polarity", type=click.Choice(["visible", "occluded"]),
            help="What a marked (white, opaque or --class) pixel is. kept_faces/ beside masks/ "
            "with NAME_mask.png means visible; every other layout must say.",
        ),
        click.option(
            "--class", "classes", multiple=True, metavar="ID|R,G,B",
            help="Class ids or colours of marked pixels; may be repeated.",
        ),
        click.option(
            "--clean", multiple=True, metavar="FOLDER",
            help="Folder below SOURCE (. for all) whose faces are fully visible; may be repeated.",
        ),
    ]  # fmt: skip
    return _all(command, options)


def face_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """SOURCE and whatever decides the plan and the faces of a cache."""
    options = [
        click.argument("source", type=EXISTING),
        click.option(
            "--out", "directory", type=click.Path(path_type=Path), required=True, help="Cache."
        ),
        click.option("--flat", is_flag=True, help="Nested folders do not name identities."),
        click.option(
            "--align", type=click.Choice(["arcface", "none"]), default="arcface",
            show_default=True,
            help="Five-point alignment, or none for images that are aligned already.",
        ),
        click.option(
            "--size", type=click.IntRange(16, 1024), default=112, show_default=True,
            help="Side of the crop in pixels.",
        ),
        click.option(
            "--margin", type=click.FloatRange(0, 2), default=0.0, show_default=True,
            help="Show this share more on each side of the template.",
        ),
        click.option(
            "--store", type=click.Choice(["raw", "jpeg"]), default="raw", show_default=True,
            help="Pixels, or JPEG for large crops and sets beyond memory.",
        ),
        click.option(
            "--model", type=EXISTING,
            help="A face_landmarker.task file for MediaPipe's Tasks API, instead of the bundled "
            "Face Mesh.",
        ),
        click.option(
            "--landmarks", "landmark_file", type=EXISTING,
            help="Import these landmarks (text or CSV, 478 or 468 points in source pixels); detect "
            "only to compare some.",
        ),
        click.option(
            "--face", "choose", type=click.Choice(["largest", "center"]), default="largest",
            show_default=True, help="Which of several faces in an image counts.",
        ),
        click.option(
            "--check-all", is_flag=True, help="Measure the quality of every face: one more pass."
        ),
        guidance_options,
        click.option("--limit", type=click.IntRange(1), help="Draw N images at random."),
        click.option(
            "--seed", type=int, default=0, show_default=True, help="Of the order of the rows."
        ),
        click.option(
            "--shard-rows", type=click.IntRange(1), help="Rows per shard.  [default: by size]"
        ),
        click.option(
            "--overwrite", is_flag=True, help="Start over: remove the cache that is there first."
        ),
    ]  # fmt: skip
    return _all(command, options)
