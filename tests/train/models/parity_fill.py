"""Weights and images that depend on names, shapes and a seed alone.

The numbers in tests/data/parity were made by the original implementations with weights drawn
this way, so that only inputs and outputs had to be stored.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

PARITY = Path(__file__).resolve().parents[2] / "data" / "parity"


def load_case(name: str) -> dict[str, np.ndarray]:
    with np.load(PARITY / f"{name}.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def drawn(key: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    generator = np.random.default_rng([zlib.crc32(key.encode()), seed])
    match key.split(".")[-1]:
        case "num_batches_tracked":
            return np.zeros(shape, np.int64)
        case "running_mean":
            return generator.normal(0.0, 0.1, shape)
        case "running_var":
            return generator.uniform(0.8, 1.2, shape)
        case "bias":
            return generator.normal(0.0, 0.05, shape)
    if len(shape) == 1:  # the scale of a BatchNorm, the slope of a PReLU
        return generator.uniform(0.3, 0.7, shape)
    return generator.normal(0.0, np.prod(shape[1:], dtype=int) ** -0.5, shape)


def fill(module: nn.Module, seed: int = 1) -> None:
    for key, value in module.state_dict().items():
        value.copy_(torch.as_tensor(drawn(key, tuple(value.shape), seed)))


def smooth_images(shape: tuple[int, int, int, int], seed: int = 1) -> Tensor:
    coarse = np.random.default_rng([7, seed]).uniform(-1, 1, (*shape[:2], 8, 8))
    return nn.functional.interpolate(
        torch.as_tensor(coarse, dtype=torch.float32), shape[2:], mode="bilinear"
    )


def sample(tensor: Tensor, like: np.ndarray) -> np.ndarray:
    flat = tensor.detach().flatten().numpy()
    return flat[np.linspace(0, flat.size - 1, like.size).astype(int)]


def relative_error(found: Tensor | np.ndarray, expected: np.ndarray) -> float:
    """The largest difference as a share of the largest expected number."""
    found = found.detach().numpy() if isinstance(found, Tensor) else found
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())
