"""Weights from files that others wrote, into a network of ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from faceguide.cache.errors import CacheError
from faceguide.train.models.errors import CheckpointError
from faceguide.train.models.safetensors_file import read_safetensors
from faceguide.train.models.torch_files import load_tensors

# Last layers whose shape follows the number of classes: another number drops them.
CLASS_LAYERS = ("kernel", "head.kernel", "fc.weight", "fc.bias")
# Where training code keeps the weights inside a checkpoint, first match first.
STATE_KEYS = ("state_dict", "model", "model_state", "net")


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


def read_state(path: Path | str) -> dict[str, Tensor]:
    """The named tensors of a weights file, on the CPU.

    Takes a bare state_dict, a training checkpoint that keeps one under `state_dict`, `model`,
    `model_state` or `net`, and `.safetensors`. The prefixes `module.` (data-parallel wrappers)
    and `model.` (Lightning) are removed where a key has them.

    Args:
        path: the file.

    Returns:
        Name → tensor. The head of an AdaFace checkpoint stays under `head.`.

    Raises:
        CheckpointError: when the file is missing, damaged or holds no tensors.
        CacheError: when the system refuses to read it.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        state, _ = read_safetensors(path)
        return state
    payload = _load(path)
    if isinstance(payload, dict):
        for key in STATE_KEYS:
            if isinstance(payload.get(key), dict):
                payload = payload[key]
                break
    state = {}
    if isinstance(payload, dict):
        for key, value in payload.items():
            if isinstance(key, str) and isinstance(value, Tensor):
                state[key.removeprefix("module.").removeprefix("model.")] = value.detach()
    if not state:
        raise CheckpointError(
            f"expected a state_dict (or one under {', '.join(STATE_KEYS)}), found no named "
            f"tensors in {path}"
        )
    return state


def split_head(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """An AdaFace checkpoint's (backbone, head), the latter without its prefix `head.`."""
    head = {k.removeprefix("head."): v for k, v in state.items() if k.startswith("head.")}
    return {k: v for k, v in state.items() if not k.startswith("head.")}, head


@dataclass(frozen=True)
class LoadReport:
    """What a weights file filled and what it did not.

    Attributes:
        source: the file, or a name for where the tensors came from.
        loaded: tensors that were copied.
        missing: names in the model that the file lacks; they keep their values.
        unexpected: names in the file that the model lacks.
        dropped: one line per class layer that was left out for its shape.
    """

    source: str
    loaded: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    dropped: tuple[str, ...]

    def summary(self) -> str:
        """One line: the counts, and up to three names of each kind that did not match."""
        parts = [f"{self.source}: {self.loaded} tensors loaded"]
        for what, names in (("not in the file", self.missing), ("not used", self.unexpected)):
            if names:
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                parts.append(f"{len(names)} {what} ({', '.join(names[:3])}{more})")
        parts.extend(self.dropped)
        return "; ".join(parts)


def load_matching(
    module: nn.Module,
    state: dict[str, Tensor],
    source: str,
    class_layers: Sequence[str] = CLASS_LAYERS,
) -> LoadReport:
    """Copy the tensors whose name and shape agree into `module`, and say what did not.

    Args:
        module: what is filled, in place.
        state: name → tensor.
        source: the file, for messages.
        class_layers: names that are left out when their shape differs (another number of
            classes). Any other difference in shape means another architecture: an error.

    Returns:
        The report.

    Raises:
        CheckpointError: when a shape differs elsewhere, a tensor is not finite, or none of the
            file fits; `module` is unchanged then.
    """
    own = module.state_dict()
    fitting: dict[str, Tensor] = {}
    dropped = []
    # In the module's order: a safetensors file lists its tensors in a new order at every reading.
    for key in own:
        if key not in state:
            continue
        value = state[key]
        if value.shape == own[key].shape:
            fitting[key] = value
        elif key in class_layers:
            dropped.append(
                f"{key} dropped: {tuple(value.shape)} in the file, {tuple(own[key].shape)} here "
                "(another number of classes)"
            )
        else:
            raise CheckpointError(
                f"{key} is {tuple(value.shape)} in {source} but {tuple(own[key].shape)} in "
                f"{type(module).__name__}: another architecture? Choose the one the file is for"
            )
    for key, value in fitting.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise CheckpointError(
                f"{key} in {source} holds NaN or infinity; take another file of these weights"
            )
    left_out = {line.split(" ", 1)[0] for line in dropped}
    # Counters of BatchNorm are absent from old files and mean nothing for the weights.
    missing = tuple(k for k in own if k not in state and not k.endswith("num_batches_tracked"))
    if not fitting and not left_out:
        raise CheckpointError(
            f"no tensor of {source} belongs to {type(module).__name__}: expected names like "
            f"{next(iter(own), 'none')}, found names like {next(iter(state), 'none')}"
        )
    # strict=False: what is missing is listed in the report instead.
    module.load_state_dict(fitting, strict=False)
    unexpected = tuple(sorted(k for k in state if k not in own))
    return LoadReport(source, len(fitting), missing, unexpected, tuple(dropped))


def load_weights(module: nn.Module, path: Path | str) -> LoadReport:
    """Fill a backbone, a head or a CAL model from a weights file of any supported layout.

    A model with a method `adapt_state` renames foreign keys first (ImageNet → CAL); a backbone
    leaves the head of a checkpoint aside and a head takes nothing but that.

    Raises:
        CheckpointError: as `read_state` and `load_matching`.
    """
    backbone, head = split_head(read_state(path))
    # A head is recognised by its own tensor; it takes the checkpoint's or a bare head's.
    state = (head or backbone) if "kernel" in module.state_dict() else backbone
    adapt = getattr(module, "adapt_state", None)
    if adapt is not None:
        state = adapt(state)
    return load_matching(module, state, str(path))
