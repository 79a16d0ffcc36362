"""What `prep plan` and `prep landmarks` settle before any image is opened."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from faceguide.cache import manifest
from faceguide.cache.plan import Plan, load_plan, read_sources
from faceguide.cache.planning.new_plan import make_plan
from faceguide.cache.planning.spooled_listing import Row
from faceguide.cache.reader import FaceCache
from faceguide.core.commands.console import say
from faceguide.core.commands.doubts import Doubts
from faceguide.core.files import replacing
from faceguide.preprocess.detect.boxes.box_detectors import best_kept
from faceguide.preprocess.detect.finders.open_finder import chosen_finder, finder_of, open_finder
from faceguide.preprocess.detect.landmark_check import checked_index
from faceguide.preprocess.detect.landmark_text import LandmarkTextError
from faceguide.preprocess.face_settings import FaceSettings, faces_recipe
from faceguide.preprocess.guidance.drawing import GuidanceSettings
from faceguide.preprocess.like_cache import require_like, settings_like
from faceguide.preprocess.parallel import over_processes
from faceguide.preprocess.prep_options import PlanOptions
from faceguide.preprocess.sources.identities import checked_rows
from faceguide.preprocess.sources.image_sources import Source, SourceError, open_source
from faceguide.preprocess.sources.new_images import NewImages


@dataclass(frozen=True)
class FacePlan:
    """Everything that decides a cache of faces.

    Attributes:
        settings: how faces are found and cut out.
        place: where the rows go, and in which order.
    """

    directory: Path
    source: Source
    settings: FaceSettings
    guidance: GuidanceSettings
    place: PlanOptions


def face_plan(faces: FaceSettings, guidance: GuidanceSettings, place: PlanOptions) -> FacePlan:
    """What the options ask for, checked; paths become absolute, for workers elsewhere."""
    like = None if place.like is None else FaceCache.open(place.like)
    if like is not None:
        faces, guidance = settings_like(like, faces, guidance)
    guidance.say_unused()
    directory, source = place.directory.absolute(), faces.source.absolute()
    imported = faces.landmarks
    finder, model = faces.finder, faces.model and faces.model.absolute()
    if imported is None and faces.detect:
        finder, model = chosen_finder(finder, model)
        if faces.finder == "auto":
            say(f"Finder: {finder} ({finder_of(finder, model)['version']})")
    boxes = faces.boxes or (best_kept() if faces.detect else None)
    settings = replace(
        faces,
        source=source,
        root=faces.root and faces.root.absolute(),
        finder=finder,
        model=model,
        boxes=boxes and boxes.absolute(),
        landmarks=imported and imported.absolute(),
        landmark_index=imported and directory / "landmarks.index",
    )
    opened = open_source(source, flat=faces.flat, root=settings.root, layout=faces.source_layout)
    if like is not None:
        require_like(like, faces_recipe(settings, opened))
        opened = NewImages(opened, like)
    return FacePlan(directory, opened, settings, guidance, place)


def settle(wanted: FacePlan, jobs: int) -> tuple[Plan, dict[str, Any]]:
    """Make or adopt the plan, the index of imported landmarks and the recipe of the guidance.

    Args:
        jobs: processes that a long listing is divided among.

    Returns:
        The plan and the guidance's recipe.
    """
    directory, settings = wanted.directory, wanted.settings
    begun = load_plan(directory) is not None
    recipe = faces_recipe(settings, wanted.source)
    with tqdm(unit=" images", desc="listing", disable=None) as bar:
        plan = make_plan(
            directory,
            lambda: _rows(wanted.source, directory),
            recipe=recipe,
            meta=wanted.source.columns,
            seed=wanted.place.seed,
            limit=wanted.place.limit,
            shard_rows=wanted.place.shard_rows,
            row_bytes=settings.row_bytes(),
            progress=bar.update,
            spread=over_processes(jobs, "lists"),
        )
    for problem in wanted.source.problems():
        say(f"Note: {problem}")
    Doubts.kept(directory, "sources").say()  # also where the plan was there already
    try:
        _settle_landmarks(wanted, plan)
    except LandmarkTextError:
        if not begun:  # a table that is refused leaves no claim on the directory
            manifest.start_over(directory)
        raise
    manifest.set_recipe(directory, plan, "guidance", wanted.guidance.recipe(), replace=False)
    guidance_recipe = manifest.group_recipe(directory, plan, "guidance")
    assert guidance_recipe is not None
    return plan, guidance_recipe


def _settle_landmarks(wanted: FacePlan, plan: Plan) -> None:
    """Index a table of landmarks, once it is compared with what detection finds."""
    directory, table = wanted.directory, wanted.settings.landmarks
    index = wanted.settings.landmark_index
    if table is None or index is None:
        return
    if not index.exists():
        with replacing(index) as temporary:
            shards = (read_sources(directory, plan, shard) for shard in range(plan.shards))
            rows = ((row.key, row.at) for shard in shards for row in shard)
            finder = partial(open_finder, wanted.settings.finder, wanted.settings.model)
            doubts = checked_index(table, temporary, rows, wanted.source, finder)
            doubts.keep(directory, "faces")
    Doubts.kept(directory, "faces").say()


def _rows(source: Source, directory: Path) -> Iterator[Row]:
    row = None
    for row in checked_rows(source):
        yield Row(row.key, row.identity, row.at, tuple(row.meta[name] for name in source.columns))
    if row is None:
        reasons = [*source.doubts.lines(), *source.problems()] or ["there is nothing else in it"]
        raise SourceError(f"{source.path}: no images found; {'; '.join(reasons)}")
    # Before the plan is published: who finds a plan finds the doubts about it.
    source.doubts.keep(directory, "sources")
