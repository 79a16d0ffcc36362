"""A network out of a weights file, whoever wrote it: recognised, built and filled."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from faceguide.core.errors import CheckpointError, EvaluationError
from faceguide.train.models import blank, outline
from faceguide.train.models.backbones.vit import ViT
from faceguide.train.models.colour import Colour, UnsaidError, colour_of, feed
from faceguide.train.models.layout import State, Table, find
from faceguide.train.models.own_networks import inner, is_own, own_backbone
from faceguide.train.models.recognise import looks_like, the_network
from faceguide.train.models.safetensors_file import read_safetensors
from faceguide.train.models.weights import LoadReport, fill, find_state, read_tables

# Where finished runs of `train` and downloaded folders (CVLFace's, and resume folders of
# arcface_torch) have their weights.
_IN_FOLDERS = (
    *("backbone.safetensors", "model.safetensors", "pretrained_model/model.pt", "model.pt"),
)
# A file is no reason to run the code that it names; the user's own word is.
UNASKED = (
    "{where}: was trained with a network of your own, {name}; give --backbone {name} to import it"
)


@dataclass(frozen=True)
class NetworkFile:
    """A network as its file has it.

    Attributes:
        path: of the file; inside a folder where one was given.
        name: for `create`.
        arguments: for `create`.
        module: filled, and fed in its colour order.
        colour: that order.
        report: what was loaded.
    """

    path: Path
    name: str
    arguments: dict[str, Any]
    module: nn.Module
    colour: Colour
    report: LoadReport


def weights_in(path: Path) -> Path:
    """The weights file that is meant: itself, or that of a finished run or a downloaded folder.

    Raises:
        CheckpointError: when there is none in the folder.
    """
    if not path.is_dir():
        return path
    for name in _IN_FOLDERS:
        if (path / name).is_file():
            return path / name
    raise CheckpointError(
        f"{path}: neither a finished run nor a downloaded network is in it: expected one of "
        f"{', '.join(_IN_FOLDERS)}"
    )


def read_network(
    path: Path,
    name: str | None = None,
    colour: str | None = None,
    heads: int | None = None,
) -> NetworkFile:
    """Open a weights file of one of the networks in `MODELS`.

    Args:
        path: the file, or a downloaded folder.
        name: by --backbone, which is checked; None = as the tensors say.
        colour: "RGB" or "BGR" where the user says it.
        heads: of a vision transformer whose shape is not known, where the user says it.

    Raises:
        UnsaidError: when it leaves open what only the user can say.
        CheckpointError: when the file cannot be read, is none of these networks or another than
            `name`, or is not whole.
    """
    file = weights_in(path)
    there = read_tables(file)
    name, arguments = _network_in(there, name, file)
    arguments = _with_heads(name, arguments, file, heads)
    empty = _built(name, arguments, file)
    state = find(there, empty) or find_state(file, empty)  # the latter says why there is none
    module: nn.Module = blank(name, **arguments)
    report = whole(module, state, file)
    known = colour_of(module, state, file, colour)
    feed(module, known.order)
    return NetworkFile(file, name, arguments, module, known, report)


def name_in(file: Path) -> str:
    """The name of the network in a weights file.

    Raises:
        CheckpointError: as `read_network`.
    """
    return _network_in(read_tables(file), None, file)[0]


def arguments_in(file: Path, name: str) -> dict[str, Any]:
    """How the network of this name in a weights file is built; {} where the file is another's."""
    try:
        return _network_in(read_tables(file), name, file)[1]
    except CheckpointError:  # said when it is to be filled
        return {}


def _network_in(there: list[Table], asked: str | None, file: Path) -> tuple[str, dict[str, Any]]:
    """Name and arguments of the network in a file."""
    about = there[0].metadata if there else {}
    stated = about.get("arch")
    if stated is not None and asked in (None, stated) and not is_own(stated):
        try:
            return stated, dict(json.loads(about.get("arguments", "{}")))
        except (ValueError, TypeError, RecursionError):
            raise CheckpointError(f"{file}: its metadata `arguments` are no JSON object") from None
    if is_own(stated):
        raise CheckpointError(UNASKED.format(where=file, name=stated))
    found = the_network(there, asked, file)
    if found is None:
        if asked is None:
            names = max((table.tensors for table in there), key=len, default={})
            raise CheckpointError(
                f"{file}: does not say which network it is for, its names are like "
                f"{next(iter(names), 'none')}; `evaluate networks` lists those that are known, and "
                "--backbone module:function takes one of your own"
            )
        least = {"num_classes": 1} if asked.startswith("cal_") else {}
        return asked, least
    return found.name, dict(found.arguments)


def _with_heads(
    name: str, arguments: dict[str, Any], file: Path, heads: int | None
) -> dict[str, Any]:
    """The arguments with the number of heads that the user says, where no shape tells it."""
    if name == "vit" and "heads" not in arguments:
        if heads is None:
            raise UnsaidError(
                "--heads",
                f"{file}: a vision transformer of {arguments['depth']} blocks of width "
                f"{arguments['width']}, whose number of heads no shape tells: give --heads",
            )
        return {**arguments, "heads": heads}
    if heads is not None:
        made = outline(name, **arguments)
        own = made.heads if isinstance(made, ViT) else None
        if own != heads:
            raise CheckpointError(
                f"--heads {heads}: {name} has {own or 'no such'} heads; leave --heads out"
            )
    return arguments


def read_own(reference: str, file: Path, asked: str | None) -> tuple[nn.Module, list[str]]:
    """A user's network, filled by its function; here where training wrote the file.

    Args:
        reference: `module:function`.
        file: the weights.
        asked: a colour order, which is refused.

    Returns:
        The network, and what was loaded, a line each.

    Raises:
        EvaluationError: for a colour order.
        ModelError, CheckpointError: when it lacks what is needed, or the file is not whole.
    """
    refuse_own_colour(reference, asked)
    written = read_safetensors(file)[1].get("arch") if file.suffix == ".safetensors" else None
    if written != reference:
        return own_backbone(reference, file), []
    module = own_backbone(reference, None)
    return module, [whole(inner(module), find_state(file, inner(module)), file).summary()]


def refuse_own_colour(reference: str, asked: str | None) -> None:
    """A user's network states its colour order itself, or an EvaluationError."""
    if asked is not None:
        raise EvaluationError(
            f"--colour: {reference} says its colour order in input_spec; leave --colour out"
        )


def outline_within(name: str, arguments: dict[str, Any], file: Path) -> nn.Module:
    """An empty network without memory, once it is known to be no larger than its file.

    Raises:
        ValueError: when it is larger; further errors of any kind when it cannot be built.
    """
    empty: nn.Module = outline(name, **arguments)
    numbers = sum(tensor.numel() for tensor in empty.parameters())
    stored = file.stat().st_size if file.is_file() else 0
    if numbers > max(stored, 1 << 20):
        raise ValueError(f"{numbers} numbers do not come out of {stored} bytes of weights")
    return empty


def _built(name: str, arguments: dict[str, Any], file: Path) -> nn.Module:
    """An outline of the network in a file, or a CheckpointError."""
    try:
        return outline_within(name, arguments, file)
    except (TypeError, ValueError, RuntimeError, ArithmeticError, AttributeError) as error:
        raise CheckpointError(f"{file}: its {name} cannot be built ({first_line(error)})") from None


def first_line(error: BaseException) -> str:
    """What an error says, in one short line."""
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def whole(module: nn.Module, state: State, file: Path) -> LoadReport:
    """Fill a network; a file that leaves a tensor at its random start is refused.

    Raises:
        CheckpointError: as `fill`; for a tensor that is missing or dropped.
    """
    report = fill(module, state, file)
    if report.missing or report.dropped:
        other = looks_like([Table("", state.tensors, {})], module, "--backbone")
        raise CheckpointError(
            f"{file} does not hold a whole {type(module).__name__}: {report.summary()}"
            + (f"; {other}" if other else "")
        )
    return report
