"""Whether losses and all that a checkpoint holds are finite: no step that diverged is kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from faceguide.cache.reader import FaceCache
from faceguide.core.errors import TrainError
from faceguide.train.distributed import largest


def require_finite(
    losses: dict[str, Tensor], batch: dict[str, Tensor], cache: FaceCache, step: int
) -> None:
    """Stop before a bad gradient reaches the weights, on all processes together.

    Raises:
        TrainError: when the loss of any process is not finite; names the images.
    """
    bad = ~torch.isfinite(losses["loss"].detach())
    # The one wait for the device per step; a NaN found later would be in the weights.
    if not largest(bad.float()).item():
        return
    if not bad.item():
        raise TrainError(
            f"the loss of another process is not finite at step {step}; see its message"
        )
    rows = batch["row"][~torch.isfinite(losses["per_image"])]
    which = "the images"
    if not len(rows):
        rows, which = batch["row"], "an image of the batch"
    listed = ", ".join(cache.texts("key", rows[:8].tolist())) + (" …" if len(rows) > 8 else "")
    values = ", ".join(
        f"{name} {value.item():.3g}" for name, value in losses.items() if value.ndim == 0
    )
    raise TrainError(
        f"the loss is not finite at step {step} ({values}); {which}: {listed}. Lower --lr, or look "
        "at these images; the last checkpoint is intact"
    )


class Soundness:
    """Looks for NaN and infinity in a module and its optimiser.

    A buffer may hold infinity by design, so one that began so is not looked at.
    """

    def __init__(self, module: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        self._module, self._optimiser = module, optimiser
        self._by_design = {name for name, tensor in module.named_buffers() if not _finite(tensor)}

    def require_start(self, checkpoint: Path | None, step: int) -> None:
        """All is finite before the first step.

        Args:
            checkpoint: that the run is resumed from; None = it starts.

        Raises:
            TrainError: names the tensor.
        """
        if found := self.broken():
            where = "" if checkpoint is None else f"{checkpoint}: "
            remedy = "remove it to start over" if checkpoint else "choose other weights for --init"
            raise TrainError(f"{where}{found} is not finite before step {step}; {remedy}")

    def broken(self) -> str | None:
        """A tensor that is not finite, by name; None when all are."""
        # In double precision a sum of finite numbers is finite, and only one wait for the device.
        sums = [tensor.detach().sum(dtype=torch.float64) for _, tensor in self._tensors()]
        if not sums:
            return None
        together = torch.stack([part.to(sums[0].device, non_blocking=True) for part in sums])
        if bool(torch.isfinite(together).all()):
            return None
        return next((name for name, tensor in self._tensors() if not _finite(tensor)), None)

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        names: dict[Tensor, str] = {}
        for name, parameter in self._module.named_parameters():
            names[parameter] = name
            yield name, parameter
        for name, buffer in self._module.named_buffers():
            if buffer.is_floating_point() and name not in self._by_design:
                yield name, buffer
        for trained, state in self._optimiser.state.items():
            for part, value in state.items():
                if isinstance(value, Tensor) and value.is_floating_point():
                    yield f"{names.get(trained, 'a tensor')} ({part})", value


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())
