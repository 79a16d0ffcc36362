"""`prep landmarks --like CACHE`: another volume, made as that cache was, of what it lacks."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from faceguide.cache.reader import FaceCache
from faceguide.cache.volumes.agreement import differences, how_made
from faceguide.core.errors import CacheError
from faceguide.preprocess.face_settings import FaceSettings
from faceguide.preprocess.guidance.drawing import GuidanceSettings

_TAKEN = ("align", "size", "margin", "store", "choose", "check_all", "quarter_turns")


def settings_like(
    cache: FaceCache, faces: FaceSettings, guidance: GuidanceSettings
) -> tuple[FaceSettings, GuidanceSettings]:
    """The settings that the cache was made with; files, such as models, are not among them.

    Raises:
        CacheError: when an option that was given says something else.
    """
    recipe = cache.recipe
    defaults = {field.name: field.default for field in fields(FaceSettings)}
    taken = {name: recipe[name] for name in _TAKEN if name in recipe}
    for name, there in taken.items():
        here = getattr(faces, name)
        if here not in (there, defaults[name]):
            raise _refusal(cache, f"{name} {there} there, {here} here")
    finder = recipe["finder"]["tool"]
    if faces.finder == "auto" and faces.landmarks is None and finder != "imported":
        taken["finder"] = finder
    group = cache.volumes[0].groups.get("guidance")
    if group is not None:
        theirs = GuidanceSettings.of(how_made(group["recipe"]), cache.directory)
        if guidance not in (theirs, GuidanceSettings()):
            _require(cache, theirs.recipe(), guidance.recipe())
        guidance = theirs
    return replace(faces, **taken), guidance


def require_like(cache: FaceCache, recipe: dict[str, Any]) -> None:
    """The faces will be made as those of the cache were.

    Raises:
        CacheError: names the versions, models or settings that differ.
    """
    _require(cache, how_made(cache.recipe), how_made(recipe))


def _require(cache: FaceCache, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    if found := differences(theirs, ours):
        raise _refusal(cache, ", ".join(f"{n} {a} there, {b} here" for n, a, b in found))


def _refusal(cache: FaceCache, listed: str) -> CacheError:
    return CacheError(
        f"--like {cache.directory}: these faces would be made otherwise ({listed}); leave the "
        "option out, or install what that cache was made with"
    )
