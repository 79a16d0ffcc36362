"""Figures of known networks as their authors print them, each with its source."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A figure of another network.

    Attributes:
        figure: "accuracy", "TAR@1e-4", "rank 1" or "rank 5".
        value: in per cent, as it is printed.
    """

    benchmark: str
    figure: str
    network: str
    value: float
    source: str


_CVLFACE = "github.com/mk-minchul/CVLface, cvlface/pretrained_models/README.md (d3d09c9)"
_OCTUPLET = "github.com/Martlgap/octuplet-loss, README.md (094ff1b)"
_INSIGHTFACE = "github.com/deepinsight/insightface, model_zoo/README.md (e68b8b0)"
_BOARD = (
    *(("lfw", "accuracy"), ("cplfw", "accuracy"), ("cfp-fp", "accuracy"), ("calfw", "accuracy")),
    *(("agedb-30", "accuracy"), ("ijb-b", "TAR@1e-4"), ("ijb-c", "TAR@1e-4")),
    *(("tinyface", "rank 1"), ("tinyface", "rank 5")),
)
# In the order of `_BOARD`.
_ROWS = {
    "AdaFace ViT-B KP-RPE, WebFace12M": (
        99.82, 95.65, 99.30, 95.93, 98.10, 96.55, 97.82, 76.10, 78.92,
    ),
    "AdaFace IR-101, WebFace12M": (99.82, 94.57, 99.24, 96.12, 98.00, 96.46, 97.72, 72.42, 74.81),
    "ArcFace IR-101, WebFace4M": (99.78, 94.35, 99.21, 96.00, 97.95, 95.83, 97.30, 71.03, 74.41),
    "AdaFace IR-50, MS1MV2": (99.85, 92.85, 98.09, 96.07, 97.85, 94.86, 96.20, 64.99, 68.88),
    "AdaFace IR-18, WebFace4M": (99.58, 92.28, 97.80, 95.52, 96.48, 92.75, 94.79, 66.07, 70.71),
}  # fmt: skip
_R50 = "insightface buffalo_l (R50, WebFace600K)"

PUBLISHED: tuple[Published, ...] = (
    *(
        Published(benchmark, figure, network, value, _CVLFACE)
        for network, values in _ROWS.items()
        for (benchmark, figure), value in zip(_BOARD, values, strict=True)
    ),
    Published("lfw", "accuracy", _R50, 99.83, _INSIGHTFACE),
    Published("cfp-fp", "accuracy", _R50, 99.33, _INSIGHTFACE),
    Published("agedb-30", "accuracy", _R50, 98.23, _INSIGHTFACE),
    Published("ijb-c", "TAR@1e-4", _R50, 97.25, _INSIGHTFACE),
    Published("xqlfw", "accuracy", "ArcFace, octuplet loss", 93.27, _OCTUPLET),
    Published("xqlfw", "accuracy", "MagFace, octuplet loss", 92.92, _OCTUPLET),
    Published("xqlfw", "accuracy", "FaceTransformer, octuplet loss", 95.12, _OCTUPLET),
)


def published_of(benchmarks: set[str]) -> list[Published]:
    """The figures of some benchmarks, benchmark by benchmark."""
    return sorted(
        (one for one in PUBLISHED if one.benchmark in benchmarks),
        key=lambda one: (one.benchmark, one.figure, -one.value),
    )
