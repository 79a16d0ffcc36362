"""Every method by its name, with its cost, what it needs and where it comes from."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from faceguide.core.errors import AttributionError
from faceguide.evaluate.attribution.attribution_options import Settings
from faceguide.evaluate.attribution.cells import CELLS
from faceguide.evaluate.attribution.methods import (
    black_box,
    cam,
    controls,
    geodesic,
    gradients,
    rollout,
)
from faceguide.evaluate.attribution.methods.deeplift import deeplift
from faceguide.evaluate.attribution.methods.integrated import integrated_gradients
from faceguide.evaluate.attribution.methods.lrp import lrp
from faceguide.evaluate.attribution.methods.maps import Batch, Maps
from faceguide.evaluate.attribution.methods.target import PairScore
from faceguide.train.models.own_networks import load_object

Explain = Callable[[PairScore, Batch, Settings], Maps]


@dataclass(frozen=True)
class Method:
    """An attribution method.

    Attributes:
        name: on the command line.
        explain: makes the maps; None for those that are read off the response table.
        cost: passes per probe in units of one forward, with settings {steps} and {samples}; a
            backward pass counts 2.
        needs: what network or matcher it needs; empty = any.
        citation: authors, title, year.
        rectify: only positive values are the claim.
        control: runs with every evaluation and competes with no method.
        shares_pass: reads `single_pass`, which all such methods together pay once.
        costly: part of "standard" for black boxes only: too dear for what it adds, or, as maps of
            occluded cells do, it passes this test by construction.
        black_box: works from scores, without gradients and layers.
    """

    name: str
    explain: Explain | None
    cost: Callable[[Settings], float]
    needs: str
    citation: str
    rectify: bool = False
    control: bool = False
    shares_pass: bool = False
    costly: bool = False
    black_box: bool = False

    def suits(self, score: PairScore) -> bool:
        """Whether the score has the gradients that the method needs."""
        return self.black_box or self.control or not score.is_black_box

    def check_suits(self, score: PairScore) -> None:
        """Refuse a network without gradients where the method needs them.

        Raises:
            AttributionError: naming methods that work.
        """
        if not self.suits(score):
            others = ", ".join(name for name, method in METHODS.items() if method.black_box)
            raise AttributionError(
                f"needs gradients, which no ONNX graph gives; choose {others} or module:function"
            )


def _cost(per_step: float = 0.0, fixed: float = 0.0, of: str = "steps") -> Callable[..., float]:
    return lambda settings: per_step * getattr(settings, of) + fixed


_OURS = "control of this evaluation"
COSINE = "cosine"
_CNN = "a convolutional network, cosine"

_LISTED = (
    Method(
        "saliency",
        gradients.saliency,
        _cost(fixed=3),
        "",
        "Simonyan, Vedaldi, Zisserman: Deep Inside Convolutional Networks, 2013",
        shares_pass=True,
    ),
    Method(
        "gradient-input",
        gradients.gradient_input,
        _cost(fixed=3),
        "",
        "Shrikumar, Greenside, Shcherbina, Kundaje: Not Just a Black Box, 2016",
        shares_pass=True,
    ),
    Method(
        "smoothgrad",
        gradients.smoothgrad,
        _cost(3, of="samples"),
        "",
        "Smilkov, Thorat, Kim, Viégas, Wattenberg: SmoothGrad, 2017",
    ),
    Method(
        "integrated-gradients",
        integrated_gradients,
        _cost(3),
        "",
        "Sundararajan, Taly, Yan: Axiomatic Attribution for Deep Networks, ICML 2017",
    ),
    Method(
        "grad-cam",
        cam.grad_cam,
        _cost(fixed=3),
        "a layer of at least 7×7",
        "Selvaraju et al.: Grad-CAM, ICCV 2017",
        rectify=True,
        shares_pass=True,
    ),
    Method(
        "layer-cam",
        cam.layer_cam,
        _cost(fixed=3),
        "a layer of at least 7×7",
        "Jiang, Zhang, Hou, Cheng, Wei: LayerCAM, TIP 2021",
        rectify=True,
        shares_pass=True,
    ),
    Method(
        "attention-cam",
        cam.attention_cam,
        _cost(fixed=3),
        "attention maps: CAL, or an occlusion head that the matcher uses",
        "Grad-CAM's weighting (Selvaraju et al., 2017) over explicit attention maps",
        rectify=True,
        shares_pass=True,
    ),
    Method(
        "geodesic-arc",
        geodesic.geodesic_arc,
        _cost(3, geodesic.COARSE),
        COSINE,
        "Integrated Gradients on nodes of equal embedding arc; see docs/attribution.md",
    ),
    Method(
        "geodesic-weighted",
        geodesic.geodesic_weighted,
        _cost(fixed=3 * 50 + 1),
        COSINE,
        "the users' earlier method; not Salek and Enguehard, 2025; see docs/attribution.md",
        costly=True,
    ),
    Method(
        "deeplift",
        deeplift,
        _cost(fixed=6),
        _CNN,
        "Shrikumar, Greenside, Kundaje: Learning Important Features, ICML 2017",
    ),
    Method(
        "lrp",
        lrp,
        _cost(fixed=11),
        _CNN,
        "Bach et al.: Layer-Wise Relevance Propagation, 2015; γ-rule of Andéol et al., 2021",
    ),
    Method(
        "rollout",
        rollout.attention_rollout,
        _cost(fixed=1),
        "a vision transformer (vit_tiny), cosine",
        "Abnar, Zuidema: Quantifying Attention Flow in Transformers, ACL 2020",
    ),
    Method(
        "gradient-rollout",
        rollout.gradient_rollout,
        _cost(fixed=3),
        "a vision transformer (vit_tiny), cosine",
        "Chefer, Gur, Wolf: Generic Attention-Model Explainability, ICCV 2021",
    ),
    Method(
        "occlusion",
        black_box.occlusion,
        _cost(fixed=CELLS + 1),
        "",
        "Zeiler, Fergus: Visualizing and Understanding Convolutional Networks, 2014",
        costly=True,
        black_box=True,
    ),
    Method(
        "corrrise",
        black_box.corrrise,
        _cost(fixed=black_box.MASKS + 1),
        "",
        "Lu, Xu, Ebrahimi: Towards Visual Saliency Explanations of Face Verification, WACV 2024",
        costly=True,
        black_box=True,
    ),
    Method("random", controls.random_smooth, _cost(), "", _OURS, control=True),
    Method("centre", controls.centre, _cost(), "", _OURS, control=True),
    Method("edges", controls.edges, _cost(), "", _OURS, control=True),
    Method("constant", controls.constant, _cost(), "", _OURS, control=True),
    Method(
        "oracle",
        None,
        _cost(),
        "",
        "Zeiler, Fergus: Visualizing and Understanding Convolutional Networks, 2014 (occlusion)",
        control=True,
    ),
    Method("oracle_reversed", None, _cost(), "", _OURS, control=True),
)

# What these methods are called elsewhere, letters and digits only.
_OTHER_NAMES = {
    "gradient": "saliency",
    "vanillagradient": "saliency",
    "inputxgradient": "gradient-input",
    "inputgradient": "gradient-input",
    "gradientxinput": "gradient-input",
    "gradienttimesinput": "gradient-input",
    "ig": "integrated-gradients",
    "intgrad": "integrated-gradients",
    "noisetunnel": "smoothgrad",
    "deepliftrescale": "deeplift",
    "layerwiserelevancepropagation": "lrp",
    "attention": "attention-cam",
    "geodesicig": "geodesic-arc",
    "attentionrollout": "rollout",
}

METHODS = {method.name: method for method in _LISTED}
CONTROLS = tuple(method.name for method in _LISTED if method.control)


def plugged(reference: str) -> Method:
    """A user's method: `function(score, probe, reference) -> maps (N, h, w) or (N, C, h, w)`."""
    function = load_object(reference)
    if not callable(function):
        raise AttributionError(f"{reference}: expected a function, found {type(function).__name__}")

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

    return Method(reference, explain, _cost(), "", "supplied by the user", black_box=True)


def _meant(name: str, legal: Sequence[str]) -> str:
    """A suggestion for a name that does not exist, or nothing."""

    def letters(text: str) -> str:
        return "".join(filter(str.isalnum, text.lower()))

    known = {letters(method): method for method in legal} | _OTHER_NAMES
    close = difflib.get_close_matches(letters(name), known, 1, 0.7)
    return f"; did you mean {known[close[0]]}?" if close else ""


def choose(names: Sequence[str]) -> list[Method]:
    """The methods of these names, each once, and all controls after them.

    Raises:
        AttributionError: for a name that does not exist; the legal ones are listed.
    """
    chosen: dict[str, Method] = {}
    for name in names:
        if ":" in name:
            chosen[name] = plugged(name)
        elif name in METHODS:
            chosen[name] = METHODS[name]
        else:
            legal = [name for name, method in METHODS.items() if not method.control]
            raise AttributionError(
                f"no method {name!r}; choose from {', '.join(legal)}, or give "
                f"module:function{_meant(name, legal)}"
            )
    competing = {name: method for name, method in chosen.items() if not method.control}
    return [*competing.values(), *(METHODS[name] for name in CONTROLS)]


def table(settings: Settings | None = None) -> list[dict[str, Any]]:
    """Name, cost in forwards per probe, needs, completeness and citation of every method."""
    settings = settings or Settings()
    return [
        {
            "method": method.name,
            "forwards": method.cost(settings),
            "needs": method.needs or "any network",
            "control": method.control,
            "shares_pass": method.shares_pass,
            "costly": method.costly,
            "black_box": method.black_box,
            "citation": method.citation,
        }
        for method in METHODS.values()
    ]
