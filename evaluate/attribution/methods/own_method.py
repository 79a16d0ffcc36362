"""Methods that users bring along as `module:function`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from faceguide.core.errors import AttributionError
from faceguide.evaluate.attribution.attribution_options import Settings
from faceguide.evaluate.attribution.methods.maps import Batch, Explain, Maps
from faceguide.evaluate.attribution.methods.target import PairScore
from faceguide.train.models.own_networks import load_object


def _function(reference: str) -> Callable[..., Any]:
    function: Callable[..., Any] = load_object(reference)
    if not callable(function):
        raise AttributionError(f"{reference}: expected a function, found {type(function).__name__}")
    return function


def claims_direction(reference: str) -> bool:
    """Whether its maps are signed: yes, unless the function's attribute `signed` is false."""
    return bool(getattr(_function(reference), "signed", True))


def plugged(reference: str) -> Explain:
    """A user's method: `function(score, probe, reference) -> maps (N, h, w) or (N, C, h, w)`.

    Raises:
        AttributionError: when it is no function; its maps are checked when they are made.
    """
    function = _function(reference)

    @functools.wraps(function)
    def explain(score: PairScore, batch: Batch, settings: Settings) -> Maps:
        maps = function(score, batch.probe, batch.reference)
        if not isinstance(maps, torch.Tensor) or len(maps) != len(batch.probe):
            raise AttributionError(f"{reference}: expected a tensor with {len(batch.probe)} maps")
        maps = maps.detach().float()
        if maps.ndim == 4:
            maps = maps.sum(1)
        if maps.ndim != 3 or maps.shape[1] != maps.shape[2]:
            raise AttributionError(
                f"{reference}: expected square maps (N, h, w), found {tuple(maps.shape)}"
            )
        return Maps(maps)

    return explain
