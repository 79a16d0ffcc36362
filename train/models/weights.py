"""Weights from files that others wrote, into a network of ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from faceguide.core.errors import CacheError, CheckpointError
from faceguide.core.formats.torch_files import load_tensors
from faceguide.train.models.layout import COUNTERS, State, Table, find, needed, tables, unwrapped
from faceguide.train.models.recognise import looks_like
from faceguide.train.models.safetensors_file import read_safetensors

# `read_state` is for networks of users' own.
__all__ = [
    "LoadReport", "fill", "find_state", "load_matching", "load_weights", "read_state",
    "read_tables", "untrained",
]  # fmt: skip

# Last layers whose shape follows the number of classes: another number drops them.
_ABOUT = ("model.yaml", "pretrained_model/model.yaml")
_ABOUT_BYTES = 1 << 16
_COLOUR = re.compile(r"^\s*color_space:\s*['\"]?(RGB|BGR)\b", re.MULTILINE)
CLASS_LAYERS = ("kernel", "head.kernel", "fc.weight", "fc.bias")


def _load(path: Path) -> Any:
    try:
        return load_tensors(path)
    except FileNotFoundError:
        raise CheckpointError(f"no weights file {path}") from None
    except IsADirectoryError:
        raise CheckpointError(f"expected a weights file, found the folder {path}") from None
    except CacheError:  # the disk failed: the file itself may be whole
        raise
    except Exception as fault:  # a damaged file raises almost anything; none of its code has run
        raise CheckpointError(
            f"expected weights written by torch.save, found something else in {path}: "
            f"{_first_line(fault)}"
        ) from None


def _first_line(fault: BaseException) -> str:
    text = str(fault).strip().splitlines()
    return text[0][:160] if text else type(fault).__name__


def _about(path: Path) -> dict[str, str]:
    """What CVLFace's model.yaml beside a file, or in the folder below it, says of its colours."""
    for name in _ABOUT:
        beside = path.parent / name
        if beside.is_file():
            with beside.open("rb") as opened:
                text = opened.read(_ABOUT_BYTES).decode("utf-8", "replace")
            if found := _COLOUR.search(text):
                return {"colour": found[1]}
    return {}


def read_tables(path: Path | str) -> list[Table]:
    """Every table of named tensors in a weights file, on the CPU.

    Takes what `torch.save` writes, of any depth, and `.safetensors`.

    Raises:
        CheckpointError: when the file is missing, damaged or holds no named tensors.
        CacheError: when the system refuses to read it.
    """
    path = Path(path)
    if path.suffix == ".onnx":
        raise CheckpointError(f"{path}: an ONNX graph can be evaluated, not trained")
    if path.suffix == ".safetensors":
        tensors, metadata = read_safetensors(path)
        return tables(tensors, {**_about(path), **metadata})
    found = tables(_load(path), _about(path))
    if not found:
        raise CheckpointError(
            "expected a state_dict, or a checkpoint that holds one, found no named tensors in "
            f"{path}; save model.state_dict(), not the model itself"
        )
    return found


def read_state(path: Path | str) -> dict[str, Tensor]:
    """The tensors of a weights file whose network is not known, for one of your own.

    Returns:
        Name → tensor of the largest table, without the wrappers (`module.`, `model.` …) that most
        names have; the head of an AdaFace checkpoint stays under `head.`.

    Raises:
        CheckpointError: as `read_tables`.
    """
    return unwrapped(max(read_tables(path), key=lambda table: len(table.tensors)))


def find_state(path: Path | str, module: nn.Module, option: str = "--backbone") -> State:
    """The tensors of a network out of a weights file of any layout, see `layout.find`.

    Args:
        option: by which the network is chosen, for messages.

    Raises:
        CheckpointError: as `read_tables`, and when no tensor of the file is the network's; what it
            looks like instead is said.
    """
    there = read_tables(path)
    state = find(there, module)
    if state is None:
        names = max((table.tensors for table in there), key=len)
        other = looks_like(there, module, option)
        raise CheckpointError(
            f"no tensor of {path} belongs to {type(module).__name__}: expected names like "
            f"{next(iter(module.state_dict()), 'none')}, found names like {next(iter(names))}"
            + (f"; {other}" if other else "")
        )
    return state


@dataclass(frozen=True)
class LoadReport:
    """What a weights file filled and what it did not.

    Attributes:
        source: the file, or a name for where the tensors came from.
        missing: names in the model that the file lacks; they keep their values.
        unexpected: names in the file that the model lacks.
        dropped: one line per class layer that was left out for its shape.
        others: where else the file holds the same network with other numbers.
    """

    source: str
    loaded: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    dropped: tuple[str, ...]
    others: tuple[str, ...] = ()

    def summary(self) -> str:
        """One line: the counts, and up to three names of each kind that did not match."""
        parts = [f"{self.source}: {self.loaded} tensors loaded"]
        for what, names in (("not in the file", self.missing), ("not used", self.unexpected)):
            if names:
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                parts.append(f"{len(names)} {what} ({', '.join(names[:3])}{more})")
        parts.extend(self.dropped)
        if self.others:
            listed = ", ".join(self.others[:3])
            parts.append(f"the file holds this network with other numbers too, left out: {listed}")
        return "; ".join(parts)


def load_matching(
    module: nn.Module,
    tensors: dict[str, Tensor],
    source: str,
    class_layers: Sequence[str] = CLASS_LAYERS,
    looks: Callable[[], str] = str,
) -> LoadReport:
    """Copy the tensors whose name and shape agree into `module`, and say what did not.

    Args:
        class_layers: names that are left out when their shape differs (another number of
            classes). Any other difference in shape means another architecture: an error.
        looks: says what the file looks like when it is not this network's; "" = nothing known.

    Returns:
        The report.

    Raises:
        CheckpointError: when a shape differs elsewhere, a tensor is not finite, the file has
            layers inside parts of the network that this one lacks, or it is as a whole that of
            another network; `module` is unchanged then.
    """
    own = module.state_dict()
    kind = type(module).__name__
    fitting: dict[str, Tensor] = {}
    dropped = []
    # In the module's order: a safetensors file lists its tensors in a new order at every reading.
    for key in own:
        if key not in tensors:
            continue
        value = tensors[key]
        if value.shape == own[key].shape:
            fitting[key] = value
        elif key in class_layers:
            dropped.append(
                f"{key} dropped: {tuple(value.shape)} in the file, {tuple(own[key].shape)} here "
                "(another number of classes)"
            )
        else:
            raise CheckpointError(
                f"{key} is {tuple(value.shape)} in {source} but {tuple(own[key].shape)} in {kind}: "
                f"another architecture; {looks() or _CHOOSE}"
            )
    if not fitting and not dropped:
        raise CheckpointError(
            f"no tensor of {source} belongs to {kind}: expected names like "
            f"{next(iter(own), 'none')}, found names like {next(iter(tensors), 'none')}"
        )
    for key, value in fitting.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise CheckpointError(
                f"{key} in {source} holds NaN or infinity; take another file of these weights"
            )
    # Counters of BatchNorm are absent from old files and mean nothing for the weights.
    missing = tuple(k for k in own if k not in tensors and not k.endswith(COUNTERS))
    unexpected = _unexpected(module, tensors)
    parts = {name for name, _ in module.named_children()}
    inside = [name for name in unexpected if name.split(".")[0] in parts]
    if inside:
        raise CheckpointError(
            f"{source} has {inside[0]} ({len(inside)} such tensors), which {kind} has not: another "
            f"architecture; {looks() or _CHOOSE}"
        )
    if needed(module) & set(missing) and (other := looks()):
        raise CheckpointError(
            f"{source} does not hold a whole {kind}, {len(missing)} tensors are not in it; {other}"
        )
    # strict=False: what is missing is listed in the report instead.
    module.load_state_dict(fitting, strict=False)
    return LoadReport(source, len(fitting), missing, unexpected, tuple(dropped))


_CHOOSE = "choose the one the file is for"


def _unexpected(module: nn.Module, tensors: dict[str, Tensor]) -> tuple[str, ...]:
    """Names that the network lacks, but for the rest of a training checkpoint."""
    own = module.state_dict()
    if "kernel" in own:  # a margin head: the rest is the backbone
        return ()
    return tuple(
        sorted(
            name
            for name in tensors
            if name not in own and not name.endswith(COUNTERS) and not name.startswith("head.")
        )
    )


def fill(
    module: nn.Module, state: State, source: Path | str, option: str = "--backbone"
) -> LoadReport:
    """Fill a network with the tensors that `find_state` found for it.

    A network with a method `adapt_state` renames foreign names first (ImageNet → CAL); a backbone
    leaves the head of an AdaFace checkpoint aside.

    Args:
        option: by which the network is chosen, for messages.

    Raises:
        CheckpointError: as `load_matching`.
    """
    adapt = getattr(module, "adapt_state", None)
    tensors = state.tensors if adapt is None else adapt(state.tensors)
    whole = [Table("", state.tensors, {})]
    report = load_matching(
        module, tensors, str(source), looks=lambda: looks_like(whole, module, option)
    )
    return replace(report, others=state.others)


def load_weights(module: nn.Module, path: Path | str, option: str = "--backbone") -> LoadReport:
    """`find_state` and `fill`.

    Raises:
        CheckpointError: as these.
    """
    return fill(module, find_state(path, module, option), path, option)


def untrained(module: nn.Module) -> bool:
    """Whether no BatchNorm of the network has ever seen an image."""
    norms = [
        norm
        for norm in module.modules()
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.running_mean is not None
    ]
    return bool(norms) and not any(
        norm.running_mean.any() or (norm.running_var != 1).any()  # type: ignore[union-attr]
        for norm in norms
    )
