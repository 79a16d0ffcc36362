"""Whether caches were made alike, and where not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faceguide.core.errors import CacheError

if TYPE_CHECKING:
    from faceguide.cache.volume import Volume

Recipe = dict[str, Any]

# Of a recipe, what says where rows come from and not how they were made.
_ORIGIN = (
    "source", "flat", "columns", "faces", "masks", "table", "polarity", "classes", "clean",
)  # fmt: skip


def differences(first: Recipe, second: Recipe) -> list[tuple[str, Any, Any]]:
    """Names that differ between two recipes, with both values; a part's name is "NAME.PART"."""
    first, second = _flat(first), _flat(second)
    names = sorted(name for name in {*first, *second} if first.get(name) != second.get(name))
    return [(name, first.get(name), second.get(name)) for name in names]


def _flat(recipe: Recipe) -> Recipe:
    """A recipe as JSON keeps it, its parts by "NAME.PART"."""
    parts: Recipe = {}
    for name, value in json.loads(json.dumps(recipe)).items():
        inner = value if isinstance(value, dict) else {}
        parts.update({f"{name}.{part}": inner[part] for part in inner} or {name: value})
    return parts


def how_made(recipe: Recipe) -> Recipe:
    """A recipe without what says where its rows come from."""
    made = {name: value for name, value in recipe.items() if name not in _ORIGIN}
    if made.get("finder", {}).get("tool") == "imported":  # its table is where landmarks come from
        made["finder"] = {"tool": "imported"}
    return made


def require_alike(ours: Recipe, theirs: Recipe, first: Path, second: Path, group: str) -> None:
    """Raise a CacheError that names where the recipes of a group differ."""
    found = differences(how_made(ours), how_made(theirs))
    if found:
        listed = ", ".join(f"{name} {mine} and {other}" for name, mine, other in found)
        raise CacheError(
            f"{first} and {second}: their {group} were made with other settings ({listed}); "
            "rebuild one of them"
        )


def require_agreement(first: Volume, other: Volume) -> None:
    """Two volumes can be one cache: the groups and columns that both have are alike.

    Raises:
        CacheError: names the group and what differs.
    """
    for group in first.groups:
        if group in other.groups:
            ours, theirs = first.groups[group]["recipe"], other.groups[group]["recipe"]
            require_alike(ours, theirs, first.directory, other.directory, group)
    for name, spec in first.specs.items():
        theirs_ = other.specs.get(name, spec)
        if name != "digest" and spec != theirs_:
            raise CacheError(
                f"{first.directory} and {other.directory}: column {name!r} is "
                f"{spec.described()} in one and {theirs_.described()} in the other; rebuild one "
                "of them"
            )
