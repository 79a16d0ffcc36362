"""The portrait behind the demo photographs: its layers, and the people made out of it.

Coordinates are pixels of the 512×512 photograph, x right, y down. Warps are written backwards,
as `cv2.remap` wants them: each output pixel says which photograph pixel it shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from faceguide.core.errors import FaceguideError
from faceguide.train.data import niqab

Floats = NDArray[Any]  # float32 or float64, as said where it matters
Polygon = Sequence[tuple[int, int]]

_TRAITS = 25  # random numbers per identity

# Positions in the photograph. Eyes, brows, lips, irises, nose and chin are what MediaPipe's Face
# Mesh finds in it, rounded; hair and skin are traced, and fitted to the edges by `_matte`.
(LEFT_IRIS, RIGHT_IRIS), MOUTH = niqab.IRISES, niqab.MOUTH
NOSE_TIP, CHIN = (223.4, 130.0), (221.3, 177.4)
MOUTH_CORNERS = (201.8, 139.2), (245.0, 141.0)
_BROWS: tuple[Polygon, ...] = (
    [(188, 91), (192, 88), (199, 87), (207, 88), (217, 91), (216, 95), (207, 92), (199, 91)],
    [(263, 96), (259, 93), (253, 91), (245, 91), (235, 93), (235, 97), (244, 95), (252, 94)],
)
_EYES: tuple[Polygon, ...] = (
    [(195, 101), (199, 98), (206, 98), (213, 104), (207, 105), (200, 105)],
    [(237, 105), (245, 100), (252, 101), (256, 104), (250, 107), (243, 107)],
)
_LIPS: Polygon = [
    (201, 139), (207, 138), (217, 138), (224, 139), (236, 139), (246, 141), (239, 150), (229, 155),
    (216, 155), (207, 148),
]  # fmt: skip
_TEETH: Polygon = [(205, 140), (223, 143), (241, 142), (237, 147), (229, 150), (217, 149)]
_HAIR: Polygon = [
    (232, 14), (206, 20), (189, 34), (172, 44), (160, 55), (153, 68), (153, 88), (158, 106),
    (170, 119), (177, 121), (179, 112), (179, 102), (183, 88), (187, 77), (198, 73), (206, 77),
    (222, 80), (240, 83), (253, 85), (265, 89), (268, 96), (269, 110), (270, 128), (281, 128),
    (292, 116), (300, 98), (302, 82), (298, 60), (287, 40), (273, 31), (259, 19), (246, 15),
]  # fmt: skip
_SKIN: Polygon = [
    (190, 72), (182, 88), (178, 101), (176, 116), (171, 121), (174, 130), (181, 132), (184, 146),
    (187, 163), (187, 180), (195, 187), (215, 191), (237, 192), (252, 188), (255, 172), (262, 156),
    (268, 137), (276, 135), (281, 128), (272, 124), (269, 108), (268, 92), (258, 84), (240, 80),
    (215, 76), (203, 71),
]  # fmt: skip

_SUIT: Polygon = [
    (0, 340), (40, 300), (100, 226), (115, 212), (113, 190), (125, 168), (150, 153), (187, 148),
    (187, 180), (215, 191), (252, 188), (256, 176), (275, 188), (296, 210), (304, 235), (330, 250),
    (352, 300), (380, 512), (0, 512),
]  # fmt: skip

# CIELAB means of skin, from light to deep, and of hair; the hair that goes with each skin.
_SKIN_LAB = np.array(
    [(72, 10, 14), (68, 12, 19), (61, 13, 23), (52, 14, 24), (43, 14, 21), (35, 12, 17)]
)
_HAIR_LAB = {
    "blond": (62, 4, 30), "copper": (43, 22, 32), "chestnut": (33, 12, 18), "brown": (24, 6, 11),
    "black": (13, 1, 3), "grey": (52, 1, 4),
}  # fmt: skip
_HAIR_OF_TONE = (
    ("blond", "copper", "grey", "brown"), ("chestnut", "blond", "black", "copper"),
    ("chestnut", "black", "grey", "brown"), ("brown", "black", "grey", "chestnut"),
    ("black", "brown", "chestnut"), ("black", "grey"),
)  # fmt: skip


@dataclass(frozen=True)
class Bump:
    """One smooth local change of the face, fading as a Gaussian.

    Attributes:
        centre: where it acts, photograph pixels.
        radius: standard deviations of its reach in x and y, pixels.
        grow: how many times wider and taller the middle appears.
        move: how far the middle moves, pixels.
    """

    centre: tuple[float, float]
    radius: tuple[float, float]
    grow: tuple[float, float] = (1.0, 1.0)
    move: tuple[float, float] = (0.0, 0.0)


def displace(points: Floats, bumps: Sequence[Bump]) -> Floats:
    """Where a warped image samples its source: (…, 2) warped positions → (…, 2) source positions.

    The displacement is a sum of affine maps, each weighted by the Gaussian of its bump.
    """
    x, y = (np.ascontiguousarray(points[..., axis], np.float32) for axis in (0, 1))
    source_x, source_y = x.copy(), y.copy()
    for bump in bumps:
        across, down = x - bump.centre[0], y - bump.centre[1]
        (wide, tall), (grow_x, grow_y) = bump.radius, bump.grow
        weight = np.exp(across**2 * (-0.5 / wide**2) + down**2 * (-0.5 / tall**2))
        source_x += weight * (across * (1 / grow_x - 1) - bump.move[0])
        source_y += weight * (down * (1 / grow_y - 1) - bump.move[1])
    return np.stack([source_x, source_y], axis=-1)


@dataclass(frozen=True)
class Identity:
    """What all images of one identity share."""

    shape: tuple[Bump, ...]
    skin: Floats  # (3,) mean CIELAB
    hair: Floats  # (3,) mean CIELAB
    brow: float  # 1 keeps the brow as it is, less is darker
    iris: tuple[float, float, float]  # RGB factors
    lips: tuple[float, float, float]  # added to CIELAB
    detail: float  # 1 keeps the skin's fine structure
    mirrored: bool  # the parting of the hair on the other side


def draw_identity(index: int, identities: int, seed: int) -> Identity:
    """Identity `index` of `identities`.

    Each trait is drawn from strata shuffled over all identities (a Latin hypercube), so that a
    small set already spans the range of every trait.
    """
    strata = np.random.default_rng([seed, 0])
    jitter = strata.random((_TRAITS, identities))
    orders = np.stack([strata.permutation(identities) for _ in range(_TRAITS)])
    share = iter((((orders + 0.25 + 0.5 * jitter) / identities)[:, index]).tolist())

    def signed() -> float:
        return 2.0 * next(share) - 1.0

    width, length, jaw, chin = signed(), signed(), signed(), signed()
    eye, apart, tilt = signed(), signed(), signed()
    nose, nostrils, mouth, fullness, lift = signed(), signed(), signed(), signed(), signed()
    brow, hairline, volume, length_of_hair = signed(), signed(), signed(), signed()
    (lx, ly), (rx, ry) = LEFT_IRIS, RIGHT_IRIS
    shape = (
        Bump((225, 128), (50, 62), grow=(1 + 0.17 * width, 1 + 0.1 * length)),
        Bump((223, 166), (32, 20), grow=(1 + 0.2 * jaw, 1)),
        Bump(CHIN, (24, 15), move=(0, 5 * chin)),
        Bump((lx, ly), (13, 8), grow=(1 + 0.18 * eye, 1 + 0.24 * eye)),
        Bump((rx, ry), (13, 8), grow=(1 + 0.18 * eye, 1 + 0.24 * eye)),
        Bump((lx, ly), (16, 14), move=(-4 * apart, 0)),
        Bump((rx, ry), (16, 14), move=(4 * apart, 0)),
        Bump((lx - 9, ly), (9, 9), move=(0, -2.2 * tilt)),
        Bump((rx + 9, ry), (9, 9), move=(0, -2.2 * tilt)),
        Bump((223, 126), (13, 13), grow=(1 + 0.2 * nostrils, 1), move=(0, 4 * nose)),
        Bump(MOUTH, (22, 10), grow=(1 + 0.2 * mouth, 1 + 0.22 * fullness)),
        Bump(MOUTH_CORNERS[0], (9, 8), move=(0, -2 * lift)),
        Bump(MOUTH_CORNERS[1], (9, 8), move=(0, -2 * lift)),
        Bump((202, 89), (18, 8), move=(0, 2.5 * brow)),
        Bump((249, 93), (18, 8), move=(0, 2.5 * brow)),
        Bump((226, 76), (46, 16), move=(0, 5 * hairline)),
        Bump((227, 58), (75, 45), grow=(1 + 0.2 * volume, 1 + 0.14 * volume)),
        Bump((160, 108), (22, 30), move=(0, 11 * length_of_hair)),
        Bump((292, 112), (22, 30), move=(0, 11 * length_of_hair)),
    )
    tone = next(share) * (len(_SKIN_LAB) - 1)
    skin = np.array([np.interp(tone, range(len(_SKIN_LAB)), channel) for channel in _SKIN_LAB.T])
    choices = _HAIR_OF_TONE[round(tone)]
    hair = np.array(_HAIR_LAB[choices[int(next(share) * len(choices))]], float)
    pale = skin[0] > 60
    iris = ((0.9, 1.3, 1.8), (0.9, 1.4, 1.0), (0.8, 0.6, 0.5), (0.5, 0.4, 0.4))
    return Identity(
        shape=shape,
        skin=skin,
        hair=hair,
        brow=0.45 + 0.5 * next(share),
        iris=iris[int(next(share) * 4)] if pale else iris[3],
        lips=(-6 * next(share), 4 + 12 * next(share), 3 * signed()),
        detail=0.4 + 0.8 * next(share),
        mirrored=next(share) > 0.5,
    )


def _filled(polygons: Sequence[Polygon], blur: float) -> Floats:
    layer = np.zeros((512, 512), np.float32)
    for polygon in polygons:
        cv2.fillPoly(layer, [np.array(polygon, np.int32)], (1.0,))
    return cv2.GaussianBlur(layer, (0, 0), blur)


def _matte(guide: Floats, traced: Polygon) -> Floats:
    """Fit a traced outline to the edges of `guide` (guided filter, He et al., 2010, eq. 5–8)."""
    layer: Floats = _filled([traced], 1.5)
    side, smooth = (9, 9), 1e-3
    mean: Floats = cv2.blur(guide, side)
    mean_layer: Floats = cv2.blur(layer, side)
    covariance: Floats = cv2.blur(np.multiply(guide, layer), side) - mean * mean_layer
    slope = covariance / (cv2.blur(np.square(guide), side) - mean * mean + smooth)
    offset = mean_layer - slope * mean
    fitted = cv2.blur(slope, side) * guide + cv2.blur(offset, side)
    return np.clip((fitted - 0.1) / 0.8, 0, 1)


@dataclass(frozen=True)
class Portrait:
    """The photograph and its layers, all (512, 512)."""

    lab: Floats  # (512, 512, 3) CIELAB
    skin: Floats
    hair: Floats
    backdrop: Floats


def load_portrait() -> Portrait:
    """The portrait that scikit-image ships, with mattes of its skin and hair.

    Raises:
        FaceguideError: when scikit-image is not installed.
    """
    try:
        from skimage.data import astronaut
    except ImportError as error:
        raise FaceguideError(
            "the demo photographs are made from a portrait that scikit-image ships, which is not "
            "installed: run `pip install 'faceguide[demo]'`"
        ) from error
    lab = cv2.cvtColor(astronaut().astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    skin = _matte(lab[..., 2] / 40, _SKIN)
    hair = _matte(lab[..., 0] / 100, _HAIR)
    skin = np.minimum(skin, 1 - hair)
    suit = _matte(lab[..., 0] / 100, _SUIT)
    return Portrait(lab, skin, hair, np.clip(1 - skin - hair - suit, 0, 1))


def paint(portrait: Portrait, identity: Identity) -> Floats:
    """The photograph in the identity's colours, (512, 512, 3) RGB in [0, 1], not yet warped."""
    lab = portrait.lab.copy()
    smooth = cv2.GaussianBlur(lab[..., 0], (0, 0), 2.5)
    fine = lab[..., 0] - smooth
    features = np.maximum(_filled([_LIPS], 1.5), _filled([*_EYES, *_BROWS], 2))
    lab[..., 0] += portrait.skin * (1 - features) * (identity.detail - 1) * fine

    bright = np.maximum(_filled([_TEETH], 0.8), _filled(_EYES, 1))
    for matte, target in (
        (portrait.skin * (1 - 0.7 * bright), identity.skin),
        (portrait.hair, identity.hair),
    ):
        mean = (lab * matte[..., None]).sum((0, 1)) / matte.sum()
        # Lightness is scaled, so that shadows stay shadows. Chroma follows it, else the shadows
        # of grey hair would turn blue.
        ratio = target[0] / mean[0]
        light = lab[..., :1] * ratio
        chroma = 0.8 * min(ratio, 1.0) * (lab[..., 1:] - mean[1:] * lab[..., :1] / mean[0])
        toned = np.dstack([light, chroma + target[1:] * np.clip(light / target[0], 0, 1.2)])
        lab += matte[..., None] * (toned - lab)
    lips = np.clip(_filled([_LIPS], 1) - _filled([_TEETH], 1), 0, 1)
    lab += lips[..., None] * np.array(identity.lips) * (identity.skin[0] / 70)
    brows = _filled(_BROWS, 1.6)
    lab[..., 0] *= 1 - brows * (1 - identity.brow)

    rgb: Floats = np.clip(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), 0, 1)
    y, x = np.mgrid[:512, :512].astype(np.float32)
    for cx, cy in (LEFT_IRIS, RIGHT_IRIS):
        disc = np.clip(4.5 - np.hypot(x - cx, y - cy), 0, 1)[..., None]
        rgb *= 1 + disc * (np.array(identity.iris) - 1)
    return np.clip(rgb, 0, 1)
