"""Every method by its name, with its cost, what it needs and where it comes from."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from faceguide.cache.schema import REGIONS
from faceguide.core.errors import AttributionError
from faceguide.evaluate.attribution.attribution_options import Settings
from faceguide.evaluate.attribution.cells import CELLS
from faceguide.evaluate.attribution.methods import (
    black_box,
    cam,
    controls,
    decision_maps,
    geodesic,
    gradients,
    rollout,
)
from faceguide.evaluate.attribution.methods.black_box import MASKS
from faceguide.evaluate.attribution.methods.integrated import integrated_gradients
from faceguide.evaluate.attribution.methods.maps import Explain
from faceguide.evaluate.attribution.methods.own_method import claims_direction, plugged
from faceguide.evaluate.attribution.methods.propagation.deeplift import deeplift
from faceguide.evaluate.attribution.methods.propagation.lrp import lrp
from faceguide.evaluate.attribution.methods.target import PairScore


@dataclass(frozen=True)
class Method:
    """An attribution method.

    Attributes:
        name: on the command line.
        explain: makes the maps; None for those that are read off the response table.
        cost: passes per probe in units of one forward, with settings {steps} and {samples}; a
            backward pass counts 2.
        needs: what network or matcher it needs; empty = any.
        citation: authors, year and where to find it.
        rectify: only positive values are the claim that `matched` reads; the map has both.
        signed: a value above 0 says that its place supports the match, one below that it opposes
            it; else the map is a magnitude and claims no direction.
        control: runs with every evaluation and competes with no method.
        costly: not part of "standard": too expensive for what it adds.
        black_box: works from scores, without gradients and layers.
        shared: pairs of one picture share its passes.
    """

    name: str
    explain: Explain | None
    cost: Callable[[Settings], float]
    needs: str
    citation: str
    rectify: bool = False
    signed: bool = True
    control: bool = False
    costly: bool = False
    black_box: bool = False
    shared: bool = False

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


def _cost(fixed: float = 0.0, per: float = 0.0, of: str = "steps") -> Callable[..., float]:
    return lambda settings: per * getattr(settings, of) + fixed


_ANY, COSINE, _RULES = "", "cosine", "functions that it has rules for, cosine"
_FACES, _REGIONS = "faces of other identities", "landmark regions of prep guidance"
_LAYER, _VIT = "a layer of at least 7×7", "a vision transformer, cosine"
_MAPS = "attention maps: CAL, or an occlusion head that the matcher uses"


def _cam(name: str, explain: Explain, cost: float, needs: str, citation: str) -> Method:
    return Method(name, explain, _cost(cost), needs, citation, rectify=True)


def _masking(
    name: str, explain: Explain, cost: float, citation: str, needs: str = _ANY, **more: bool
) -> Method:
    """It asks for scores only; pairs of one picture share its masked copies."""
    shared = {"shared": True, **more}
    return Method(name, explain, _cost(cost), needs, citation, black_box=True, **shared)


def _control(name: str, explain: Explain | None, citation: str = "of this evaluation") -> Method:
    about = f"control: {citation}"
    return Method(name, explain, _cost(), _ANY, about, control=True, signed=explain is not None)


_LISTED = (
    Method(
        "saliency", gradients.saliency, _cost(3), _ANY, "Simonyan et al., 2013, arXiv 1312.6034"
    ),
    Method(
        *("gradient-input", gradients.gradient_input, _cost(3), _ANY),
        "Shrikumar et al., 2016, arXiv 1605.01713",
    ),
    Method(
        *("smoothgrad", gradients.smoothgrad, _cost(per=3, of="samples"), _ANY),
        "Smilkov et al., 2017, arXiv 1706.03825",
        costly=True,
    ),
    Method(
        *("integrated-gradients", integrated_gradients, _cost(per=3), _ANY),
        "Sundararajan et al., 2017, arXiv 1703.01365",
    ),
    Method(
        *("expected-gradients", gradients.expected_gradients, _cost(per=3), _FACES),
        "Erion et al., 2021, arXiv 1906.10670, from faces of other identities",
    ),
    _cam("grad-cam", cam.grad_cam, 3, _LAYER, "Selvaraju et al., 2017, arXiv 1610.02391"),
    _cam("grad-cam-pp", cam.grad_cam_plus_plus, 4, _LAYER, "Chattopadhay et al., 2018, 1710.11063"),
    Method(
        *("eigen-cam", cam.eigen_cam, _cost(1), _LAYER),
        "Muhammad and Yeasin, 2020, arXiv 2008.00299",
        signed=False,
    ),
    Method(
        *("hirescam", cam.hirescam, _cost(3), _LAYER),
        "Draelos and Carin, 2020, arXiv 2011.08891",
    ),
    Method(
        *("hirescam-coarse", cam.hirescam_coarse, _cost(3), _LAYER),
        "Draelos and Carin, 2020, of the coarsest layer",
    ),
    Method(
        *("hirescam-fine", cam.hirescam_fine, _cost(3), _LAYER),
        "Draelos and Carin, 2020, of a finer layer",
    ),
    _cam("layer-cam", cam.layer_cam, 4, _LAYER, "Jiang et al., 2021, doi 10.1109/TIP.2021.3089943"),
    _cam("attention-cam", cam.attention_cam, 3, _MAPS, "Grad-CAM over explicit attention maps"),
    Method(
        *("geodesic-arc", geodesic.geodesic_arc, _cost(geodesic.COARSE, per=3), COSINE),
        "Integrated Gradients on nodes of equal embedding arc; see docs/attribution.md",
        costly=True,
    ),
    Method(
        *("geodesic-weighted", geodesic.geodesic_weighted, _cost(3 * 50 + 1), COSINE),
        "the users' earlier method; not Salek and Enguehard, 2025; see docs/attribution.md",
        costly=True,
    ),
    Method(
        *("xssab", decision_maps.xssab, _cost(5), COSINE),
        "Huber et al., 2023, arXiv 2304.13409",
        costly=True,
    ),
    Method(
        *("fggb", decision_maps.fggb, _cost(3 * 512), COSINE),
        "Lu, Xu, Ebrahimi, 2024, arXiv 2403.04549; cost for 512 numbers",
        costly=True,
        shared=True,
    ),
    Method("deeplift", deeplift, _cost(6), _RULES, "Shrikumar et al., 2017, arXiv 1704.02685"),
    Method(
        *("lrp", lrp, _cost(11), _RULES),
        "Bach et al., 2015, doi 10.1371/journal.pone.0130140; γ-rule of Andéol et al., 2021; "
        "transformers: Achtibat et al., 2024, arXiv 2402.05602",
    ),
    Method(
        *("rollout", rollout.attention_rollout, _cost(1), _VIT),
        "Abnar and Zuidema, 2020, arXiv 2005.00928",
        signed=False,
    ),
    Method(
        *("gradient-rollout", rollout.gradient_rollout, _cost(3), _VIT),
        "Chefer et al., 2021, arXiv 2103.15679",
    ),
    _masking("occlusion", black_box.occlusion, CELLS + 1, "Zeiler, Fergus, 2013, arXiv 1311.2901"),
    _masking(
        *("occlusion-blur", black_box.occlusion_by_blur, CELLS + 1),
        "Zeiler, Fergus, 2013, with blurred cells",
        costly=True,
    ),
    _masking(
        *("occlusion-faces", black_box.occlusion_by_faces, CELLS + 1),
        "Zeiler, Fergus, 2013, with cells of another identity's face",
        _FACES,
    ),
    _masking(
        *("minplus", black_box.minplus, 2 * CELLS + 2, "Mery and Morris, 2022, CVPR Workshops"),
        costly=True,
    ),
    _masking(
        *("corrrise", black_box.corrrise, MASKS + 1, "Lu, Xu, Ebrahimi, 2024, arXiv 2305.08546"),
        costly=True,
    ),
    _masking(
        *("corrrise-both", black_box.corrrise_both, 2 * MASKS),
        "Lu, Xu, Ebrahimi, 2024, arXiv 2305.08546, with masks on both faces",
        costly=True,
        shared=False,
    ),
    _masking(
        *("fv-rise", black_box.fv_rise, MASKS + 1),
        "Bousnina et al., 2023, BIOSIG, with fewer masks",
        costly=True,
    ),
    _masking(
        *("region-shap", black_box.region_shap, 2 ** (len(REGIONS) + 1)),
        "Lundberg and Lee, 2017, arXiv 1705.07874, exact over eyes, nose, mouth and the rest",
        _REGIONS,
    ),
    _control("random", controls.random_smooth),
    _control("centre", controls.centre),
    _control("edges", controls.edges),
    _control("pixels", controls.patch_likeness),
    _control("constant", controls.constant),
    _control("angle", None, "turn of the probe's embedding; knows no reference"),
    _control("oracle", None, "occlusion of Zeiler and Fergus, 2013, arXiv 1311.2901"),
    _control("oracle_reversed", None),
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

# What is standard, costly as it is, where there are scores only.
STANDARD_BLACK_BOX = ("corrrise",)
METHODS = {method.name: method for method in _LISTED}
CONTROLS = tuple(method.name for method in _LISTED if method.control)


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text.lower().replace("+", "p")))


_SPELT = {_letters(name): method for name, method in METHODS.items()}


def _meant(name: str, legal: Sequence[str]) -> str:
    """A suggestion for a name that does not exist, or nothing."""

    known = {_letters(method): method for method in legal} | _OTHER_NAMES
    close = difflib.get_close_matches(_letters(name), known, 1, 0.7)
    return f"; did you mean {known[close[0]]}?" if close else ""


def named(name: str) -> Method:
    """The method of a name, in any case, with or without hyphens; or a user's module:function.

    Raises:
        AttributionError: for a name that does not exist; the legal ones are listed.
    """
    if ":" in name:
        about, signed = "supplied by the user", claims_direction(name)
        return Method(name, plugged(name), _cost(), "", about, black_box=True, signed=signed)
    if _letters(name) in _SPELT:
        return _SPELT[_letters(name)]
    legal = [name for name, method in METHODS.items() if not method.control]
    raise AttributionError(
        f"no method {name!r}; choose from {', '.join(legal)}, or give "
        f"module:function{_meant(name, legal)}"
    )


def choose(names: Sequence[str], responses: bool = True) -> list[Method]:
    """The methods of these names, each once, and all controls after them.

    Args:
        responses: whether the effect of each cell is measured, from which some controls are read.

    Raises:
        AttributionError: for a name that does not exist; the legal ones are listed.
    """
    chosen = {method.name: method for method in map(named, names)}
    competing = [method for method in chosen.values() if not method.control]
    controls = [METHODS[name] for name in CONTROLS]
    return [*competing, *(one for one in controls if responses or one.explain is not None)]


def table(settings: Settings | None = None) -> list[dict[str, Any]]:
    """Name, cost in forwards per probe, needs, completeness and citation of every method."""
    settings = settings or Settings()
    return [
        {
            "method": method.name,
            "forwards": method.cost(settings),
            "needs": method.needs or "any network",
            "signed": method.signed,
            "control": method.control,
            "costly": method.costly,
            "black_box": method.black_box,
            "citation": method.citation,
        }
        for method in METHODS.values()
    ]
