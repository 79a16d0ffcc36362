"""Which network the tensors of a weights file are for, by their names."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from torch import nn

from faceguide.train.models.layout import COUNTERS, Table, find, needed

# Networks of others, by a name that no other has, that cannot be built here.
_FOREIGN = (
    (".prelu.weight", "layer1.", "the iresnet of insightface's arcface_torch"),
    (".rpe", "blocks.", "a vision transformer with relative positions"),
    ("keypoint_linear.weight", "", "CVLFace's KP-RPE"),
    ("patch_embed.proj.weight", "", "a vision transformer of timm, arcface_torch or CVLFace"),
    ("xca.temperature", "stages.", "EdgeFace"),
    ("conv_sep.layers.0.weight", "", "the MobileFaceNet of insightface's arcface_torch"),
)
_GAPS = 0.02  # of a network's names may be absent from a file that is recognised


@dataclass(frozen=True)
class _Fit:
    """How well a file and a network suit each other, in names.

    Attributes:
        belonging: that both have.
        gaps: that the file lacks and training must start from.
        foreign: that the file has inside parts of the network, and the network has not.
        whole: the file lacks none at all.
    """

    belonging: int
    gaps: int
    foreign: int
    whole: bool

    def __gt__(self, other: _Fit) -> bool:
        return self._mark > other._mark

    @property
    def _mark(self) -> int:
        return self.belonging - self.gaps - self.foreign


def looks_like(there: list[Table], module: nn.Module, option: str) -> str:
    """What a file looks like that is not this network's, with the remedy; "" when unknown.

    Args:
        there: its tables.
        module: the network that it was tried for.
        option: by which another is chosen: "--model" of `train cal`, else "--backbone".
    """
    here = _fit(there, module)
    fitting = {name: _fit(there, empty) for name, empty in _empty_networks().items()}
    # Better than the network that was tried, and but for a few gaps all that training starts from.
    better = [
        name
        for name, fit in fitting.items()
        if fit is not None
        and fit.gaps + fit.foreign <= _GAPS * fit.belonging
        and (not here or fit > here)
    ]
    whole = [name for name in better if fitting[name].whole]  # type: ignore[union-attr]
    if option == "--model":
        for name in better:
            if name.startswith("cal_"):
                kind = name if name in whole else name.removeprefix("cal_")
                return f"it looks like {kind}: use {option} {name}"
    if whole:
        chosen = whole[0]
        if option == "--model":
            return f"it looks like {chosen}, which {option} does not offer"
        return f"it looks like {chosen}: use {option} {chosen}"
    for name in better:
        if name.startswith("cal_resnet"):
            return f"it looks like {name.removeprefix('cal_')} of ImageNet, not a face network"
    for end, within, kind in _FOREIGN:
        if any(end in key and within in key for table in there for key in table.tensors):
            return f"it looks like {kind}, which is not among the networks here"
    return ""


def recognised(there: list[Table]) -> str | None:
    """The network that a file holds whole and little else; None when there is none.

    Args:
        there: its tables.
    """
    fitting = {name: _fit(there, empty) for name, empty in _empty_networks().items()}
    whole = {
        name: fit for name, fit in fitting.items() if fit is not None and fit.whole
        and not fit.foreign
    }  # fmt: skip
    return max(whole, key=lambda name: whole[name]._mark, default=None)


def _fit(there: list[Table], module: nn.Module) -> _Fit | None:
    state = find(there, module)
    if state is None:
        return None
    adapt = getattr(module, "adapt_state", None)
    tensors = state.tensors if adapt is None else adapt(state.tensors)
    own = {name for name in module.state_dict() if not name.endswith(COUNTERS)}
    parts = {part for part, _ in module.named_children()}
    return _Fit(
        len(own & tensors.keys()),
        len(needed(module) - tensors.keys()),
        sum(name.split(".")[0] in parts and not name.endswith(COUNTERS)
            for name in tensors if name not in own),
        own <= tensors.keys(),
    )  # fmt: skip


@functools.cache
def _empty_networks() -> dict[str, nn.Module]:
    """Every network that looks at faces, without memory for its weights."""
    from faceguide.train.models import MODELS, outline

    parts = ("adaface", "arcface", "cosface", "qaconv", "occlusion_head")
    return {
        name: outline(name, **({"num_classes": 1} if name.startswith("cal_") else {}))
        for name in MODELS
        if name not in parts
    }
