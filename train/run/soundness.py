"""Whether everything that a save holds is finite: a step that diverged is never kept."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Soundness:
    """Looks for NaN and infinity in a module and its optimiser.

    Args:
        module: what is trained.
        optimiser: of its parameters.

    Attributes:
        broken_at_start: a parameter, or a tensor of the optimiser, that was not finite when this
            was made; None when all were. A buffer may hold infinity by design, so one that began
            so is not looked at again.
    """

    def __init__(self, module: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        self._module, self._optimiser = module, optimiser
        self._by_design = {name for name, tensor in module.named_buffers() if not _finite(tensor)}
        self.broken_at_start = self.broken()

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
