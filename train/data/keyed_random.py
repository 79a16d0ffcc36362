"""Random numbers that belong to an image, not to a process: a hash of (key, row, position).

They depend on the seed, the epoch and the row only. So two processes with half a batch each get
what one process with the whole batch gets, a resumed run gets what the first would have,
and there is no generator whose state could be lost. The hash is splitmix64 (Steele, Lea and
Flood, "Fast splittable pseudorandom number generators", 2014) and runs on the device of the rows.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def _signed(value: int) -> int:
    """A 64-bit pattern as the int64 that torch can hold."""
    return value - (1 << 64) if value >= 1 << 63 else value


_GAMMA = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def _shift(value: Tensor, bits: int) -> Tensor:
    """Logical right shift; that of int64 would drag the sign along."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _mix(value: Tensor) -> Tensor:
    value = value + _GAMMA
    value = (value ^ _shift(value, 30)) * _FIRST
    value = (value ^ _shift(value, 27)) * _SECOND
    return value ^ _shift(value, 31)


def keyed_uniform(key: tuple[int, ...], rows: Tensor, count: int) -> Tensor:
    """Uniform numbers of each row.

    Args:
        key: whole numbers such as (seed, epoch, purpose); another key, independent numbers.
        rows: (N,) int64 row numbers of the cache.
        count: numbers per row.

    Returns:
        (N, count) float32 in [0, 1), on the device of `rows`; a row's numbers do not depend on
        the other rows.
    """
    state = torch.zeros((), dtype=torch.int64, device=rows.device)
    for part in key:
        state = _mix(state ^ _signed(part & ((1 << 64) - 1)))
    state = _mix(state ^ rows)  # (N,)
    place = torch.arange(count, dtype=torch.int64, device=rows.device)
    bits = _mix(state[:, None] + place * _GAMMA)  # (N, count)
    # A float32 holds 24 bits; more could round up to 1.
    return _shift(bits, 40).to(torch.float32) * 2.0**-24


def seed_torch(*key: int) -> None:
    """Start torch's generators from a key, such as (seed, epoch, batch, process).

    What draws from them (dropout, networks of users) then gets in a resumed run what it would have
    got, without a state that a checkpoint had to hold for every process.
    """
    words = np.random.SeedSequence([part % (1 << 64) for part in key])
    torch.manual_seed(int(words.generate_state(1, np.uint64)[0]))
