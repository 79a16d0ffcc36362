"""`--from RUN/run.json`: a run repeated from its record.

run.json keeps the resolved options of the command (`settings`) and names the content of each file
and cache that an option led to (`inputs`). With `--from`, an option that is not on the command
line takes its recorded value, and what the run was made of has to be what it was.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from faceguide.core.commands.console import say
from faceguide.core.commands.settings import recorded
from faceguide.core.commands.shared_options import Caches
from faceguide.core.errors import TrainError

CACHE = "cache_directory"
_WEIGHTS = ("*.safetensors", "model.*", "pretrained_model/model.*")  # in a run or a download
_RECORD = "faceguide.train.record"  # place in a Click context: the file and its content


def record_of(reads: Mapping[str, Collection[str]], *given: Any) -> dict[str, Any]:
    """`settings` and `inputs` for run.json, once the latter are what `--from` wants.

    Args:
        reads: option that names a cache → the groups of it that the run would read; others may
            have come since.
        given: the dataclasses of the running command, of which the run is made.

    Raises:
        TrainError: when the run of `--from` was made of something else; names both.
    """
    context = click.get_current_context()
    settings = recorded(*given)
    types = {str(parameter.name): parameter.type for parameter in context.command.params}
    inputs = {
        name: _content(Path(value), types[name])
        for name, value in settings.items()
        if isinstance(types.get(name), click.Path) and value is not None
    }
    if _RECORD in context.meta:
        _require_same(context, inputs, settings, reads)
    return {"settings": settings, "inputs": inputs}


def _content(path: Path, kind: click.ParamType) -> dict[str, str]:
    """Names what a file, a run or a cache holds: sha256 of bytes, or of each group's manifest."""
    from faceguide.cache.pairs.twin_lists import IMAGES_OF_TWINS
    from faceguide.cache.reader import FaceCache
    from faceguide.core.files import digest, file_sha256

    if isinstance(kind, Caches):
        groups = FaceCache.open(path).groups
        return {group: digest(manifest) for group, manifest in groups.items()}
    if path.is_dir():
        weights = sorted({file for name in _WEIGHTS for file in path.glob(name)})
        if not weights:
            raise TrainError(f"{path}: neither a finished run nor a downloaded network is in it")
        return {file.relative_to(path).as_posix(): file_sha256(file) for file in weights}
    # ND-TWIN's list of pairs says nothing without the list of images next to it.
    images = path.with_name(IMAGES_OF_TWINS) if path.suffix.lower() == ".json" else path
    files = {path, images} if images.is_file() else {path}
    try:
        return {file.name: file_sha256(file) for file in sorted(files)}
    except OSError as error:
        raise TrainError(f"{path}: cannot read: {error.strerror}") from None


def fill(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    """Make the recorded options the defaults of this call, before others look for theirs."""
    from faceguide.core.files import read_json

    if path is None or context.resilient_parsing:
        return path
    record = read_json(path)
    command = f"train {context.command.name}"
    if record.get("command") != command:
        raise TrainError(f"{path}: is of {record.get('command')!r}, not of {command!r}")
    settings, inputs = record.get("settings"), record.get("inputs")
    tables = [settings, inputs, record.get("versions"), record.get("fixed")]
    tables += inputs.values() if isinstance(inputs, dict) else []
    if not all(isinstance(table, dict) for table in tables):
        raise TrainError(
            f"{path}: holds no options to repeat; an older version wrote it, so give them as "
            "its `argv` has them"
        )
    assert settings is not None
    known = {str(known.name): known for known in context.command.params}
    unknown = sorted(settings.keys() - known.keys())
    if unknown:
        raise TrainError(f"{path}: this version has no option {', '.join(unknown)}")
    context.default_map = {
        name: _default(path, known[name], value)
        for name, value in settings.items()
        if value is not None
    }
    context.meta[_RECORD] = path, record
    there, here = _circumstances(record), _circumstances(None)
    listed = ", ".join(
        f"{name} {there.get(name)} → {here.get(name)}"
        for name in {**there, **here}
        if there.get(name) != here.get(name)
    )
    if listed:
        say(f"Note: {path} was made otherwise ({listed}); the numbers may differ")
    return path


def _circumstances(record: dict[str, Any] | None) -> dict[str, Any]:
    """What changes numbers, apart from the options: versions and number of processes."""
    from faceguide.core.commands.run_directory import versions
    from faceguide.train.distributed import from_environment

    here = from_environment().world
    if record is None:
        return {**versions(), "processes": here}
    return {**record["versions"], "processes": record.get("processes", here)}


def _default(path: Path, parameter: click.Parameter, value: Any) -> Any:
    """A recorded value as Click takes it; one that names a file is looked at only when used."""
    flag = isinstance(parameter, click.Option) and parameter.is_flag
    lists = bool(getattr(parameter.type, "lists", False))
    given = value if parameter.multiple and isinstance(value, list) else [value]
    kinds: tuple[type, ...] = (bool,) if flag else (list,) if lists else (str, int, float)
    if any(not isinstance(one, kinds) or isinstance(one, bool) != flag for one in given):
        raise TrainError(f"{path}: {parameter.name} cannot be {value!r}")
    if flag or lists:
        return value
    texts = [str(one) for one in given]
    if isinstance(parameter.type, click.Path):
        return lambda: _existing(path, parameter, texts[0])
    return texts if parameter.multiple else texts[0]


def _existing(path: Path, parameter: click.Parameter, place: str) -> str:
    several = Caches.several(place) if isinstance(parameter.type, Caches) else []
    if not all(Path(part).exists() for part in several or [place]):
        raise TrainError(
            f"{path}: its {_label(parameter)} {place} is gone; restore it, or say where it is now"
        )
    return place


def _label(parameter: click.Parameter) -> str:
    return "CACHE" if parameter.name == CACHE else parameter.opts[0]


def _require_same(
    context: click.Context,
    inputs: dict[str, dict[str, str]],
    settings: dict[str, Any],
    reads: Mapping[str, Collection[str]],
) -> None:
    """What the record led to, and CACHE in any case, holds what it held."""
    path, record = context.meta[_RECORD]
    for parameter in context.command.params:
        name = str(parameter.name)
        replaced = context.get_parameter_source(name) is not ParameterSource.DEFAULT_MAP
        if name not in inputs or (replaced and name != CACHE):
            continue
        before, now = record["inputs"].get(name, {}), inputs[name]
        if name in reads:
            before, now = (
                {group: held[group] for group in sorted(reads[name]) if group in held}
                for held in (before, now)
            )
        if before != now:
            listed = ", ".join(
                f"{part} {str(before.get(part))[:16]} there, {str(now.get(part))[:16]} here"
                for part in {**before, **now}
                if before.get(part) != now.get(part)
            )
            raise TrainError(
                f"{path}: {_label(parameter)} {settings[name]} is not what that run was made of "
                f"({listed}); restore it, or leave --from out"
            )
