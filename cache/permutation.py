"""A pseudo-random permutation of 0 … n−1 that needs no memory.

A balanced Feistel network over the smallest even number of bits that holds n, walked until the
value falls below n (cycle walking; Black and Rogaway 2002). The same key gives the same order on
every machine and in every version of the format: plans and shuffles both stand on it, so it must
never change.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 6
_MASK = (1 << 64) - 1


def _mix(value: int) -> int:
    """One finalising step of splitmix64 on a Python integer."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def _round_keys(key: tuple[int, ...]) -> list[np.uint64]:
    state = 0x66616365  # any constant; it separates our keys from other users of splitmix64
    for part in key:
        state = _mix(state ^ (part & _MASK))
    keys = []
    for _ in range(_ROUNDS):
        state = _mix(state)
        keys.append(np.uint64(state))
    return keys


def permute(index: NDArray[np.integer], n: int, key: tuple[int, ...]) -> NDArray[np.int64]:
    """Where each index goes under the permutation of 0 … n−1 that `key` names.

    Args:
        index: any shape, values in 0 … n−1.
        n: size of the permuted range, 1 … 2**62.
        key: whole numbers, such as (seed, epoch).

    Returns:
        int64 array of the same shape; distinct indices give distinct results.

    Raises:
        ValueError: when an index is outside 0 … n−1.
    """
    value = np.array(index, dtype=np.uint64)  # a copy: cycle walking writes into it
    if value.size == 0:
        return value.astype(np.int64)
    if int(np.min(index)) < 0 or int(np.max(index)) >= n:
        raise ValueError(f"indices must lie in 0 … {n - 1}")
    half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    keys = _round_keys(key)
    flat = value.reshape(-1)
    flat[:] = _feistel(flat, half, mask, keys)
    outside = np.flatnonzero(flat >= n)
    while outside.size:
        flat[outside] = _feistel(flat[outside], half, mask, keys)
        outside = outside[flat[outside] >= n]
    return value.astype(np.int64)


def _feistel(
    value: NDArray[np.uint64], half: np.uint64, mask: np.uint64, keys: list[np.uint64]
) -> NDArray[np.uint64]:
    left, right = value >> half, value & mask
    for key in keys:
        # Multiplications wrap modulo 2**64, as intended.
        mixed = (right ^ key) * np.uint64(0xFF51AFD7ED558CCD)
        mixed ^= mixed >> np.uint64(33)
        mixed *= np.uint64(0xC4CEB9FE1A85EC53)
        mixed ^= mixed >> np.uint64(29)
        left, right = right, left ^ (mixed & mask)
    return (left << half) | right
