"""A small labelled photo set for the demo, made out of one photograph that scikit-image ships.

Every *identity* is the same portrait under a smooth warp of its own (width of face and jaw,
eyes, nose, mouth, brows, hair) with its own skin, hair, brow, iris and lip colours. Every
*image* of an identity is a capture of its own: head turned by a dome-shaped parallax, roll,
scale and shift, expression, light, colour temperature, backdrop, blur and noise. Some images
wear a drawn niqab whose mask is exact. The set exercises the product; accuracy on it means
nothing.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from faceguide.core.errors import FaceguideError
from faceguide.train.data import niqab

from .portrait import (
    LEFT_IRIS,
    MOUTH,
    NOSE_TIP,
    RIGHT_IRIS,
    Bump,
    Floats,
    Identity,
    Portrait,
    displace,
    draw_identity,
    load_portrait,
    paint,
)

FOLDS, PAIRS_PER_FOLD = 10, 60  # pairs of a fold, at most; half of them of one identity
_VIEW_CENTRE, _VIEW_SIDE = (225.0, 112.0), 226.0  # what an unshifted image shows
_PAD = 60  # backdrop added above the photograph, whose top edge is close to the hair
_JPEG_QUALITY = 92

_ATTRIBUTION = """\
Every picture in this folder is made by computer out of one photograph: a portrait of the
astronaut Eileen Collins by NASA. It was released into the public domain and is distributed
with scikit-image as skimage.data.astronaut() (https://flic.kr/p/r9qvLn).

The faces are warped, recoloured and partly occluded by drawn cloth. They show no real people and
say nothing about Eileen Collins, and NASA endorses neither them nor the software that made them.
The set serves to try the software out. No accuracy measured on it means anything.
"""


@dataclass(frozen=True)
class Capture:
    """What belongs to one image only."""

    pose: tuple[Bump, ...]
    view: Floats  # (2, 3): pixels of a 1×1 image, -0.5 to 0.5, to the photograph
    light: Floats  # (3,) unit vector to the lamp, x right, y down, z to the camera
    contrast: float  # how much the lamp models the face
    exposure: Floats  # (3,) RGB factors
    backdrop: Floats  # (3,) RGB factors
    suit_hue: float  # radians
    blur: float  # pixels of a 256×256 image
    noise: float  # standard deviation, image range [0, 1]
    grain: int  # seed of the noise
    veil: int | None  # seed of the drawn niqab


def draw_capture(index: int, image: int, seed: int) -> Capture:
    """Image `image` of identity `index`; every third one wears a niqab."""
    rng = np.random.default_rng([seed, 1, index, image])
    yaw, pitch = np.tan(np.radians(rng.uniform((-20, -12), (20, 12))))
    smile, squint, brow = rng.uniform(-1, 1, 3)
    pose = (
        # A turned head: what is nearer to the camera moves further.
        Bump((225, 116), (48, 58), move=(34 * yaw, 34 * pitch)),
        Bump(NOSE_TIP, (12, 15), move=(11 * yaw, 11 * pitch)),
        Bump(MOUTH, (20, 11), grow=(1 + 0.08 * smile, 1 - 0.12 * smile)),
        Bump(LEFT_IRIS, (12, 7), grow=(1, 1 + 0.1 * squint)),
        Bump(RIGHT_IRIS, (12, 7), grow=(1, 1 + 0.1 * squint)),
        Bump((225, 88), (36, 9), move=(0, -1.5 * brow)),
    )
    roll, scale = np.radians(rng.uniform(-11, 11)), _VIEW_SIDE * np.exp(rng.uniform(-0.13, 0.08))
    linear = scale * np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
    centre = np.array(_VIEW_CENTRE) + rng.uniform((-14, -8), (14, 10))
    light = np.array([rng.uniform(-1, 1), rng.uniform(-0.8, 0.2), 1.0])
    warmth = rng.uniform(-0.09, 0.09)
    return Capture(
        pose=pose,
        view=np.column_stack([linear, centre]),
        light=light / np.linalg.norm(light),
        contrast=rng.uniform(0.15, 0.75),
        exposure=np.exp(rng.uniform(-0.3, 0.04)) * np.array([1 + warmth, 1.0, 1 - warmth]),
        backdrop=np.exp(rng.uniform(-0.6, 0.15)) * (1 + rng.uniform(-0.11, 0.11, 3)),
        suit_hue=rng.uniform(-np.pi, np.pi),
        blur=max(0.0, rng.uniform(-0.5, 0.8)),
        noise=rng.uniform(0.002, 0.014),
        grain=int(rng.integers(2**31)),
        veil=int(rng.integers(2**31)) if image % 3 == 2 else None,
    )


def sampling_field(identity: Identity, capture: Capture, size: int) -> Floats:
    """(size, size, 2) photograph position that each pixel of the image shows."""
    steps = (np.arange(size) + 0.5) / size - 0.5
    grid = np.stack(np.meshgrid(steps, steps), axis=-1)
    unturned = grid @ capture.view[:, :2].T + capture.view[:, 2]
    return displace(displace(unturned, capture.pose), identity.shape)


def _hue_rotation(angle: float) -> Floats:
    """(3, 3) rotation of RGB about its grey axis."""
    axis = np.full(3, 3**-0.5)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) * 3**-0.5
    return (
        np.cos(angle) * np.eye(3)
        + np.sin(angle) * cross
        + (1 - np.cos(angle)) * np.outer(axis, axis)
    )


@dataclass(frozen=True)
class Rendering:
    """One image before JPEG.

    Attributes:
        bare: (S, S, 3) uint8 RGB without the niqab.
        photo: (S, S, 3) uint8 RGB as it is written.
        visible: (S, S) uint8, 255 where nothing of the cloth is in the pixel, else 0; None when
            the image has no niqab.
    """

    bare: NDArray[np.uint8]
    photo: NDArray[np.uint8]
    visible: NDArray[np.uint8] | None


def render(
    portrait: Portrait, painted: Floats, identity: Identity, capture: Capture, size: int
) -> Rendering:
    """Warp, light and veil one image.

    Args:
        portrait: the layers of the photograph.
        painted: what `paint` made of it for `identity`.
        identity: shape of the face.
        capture: the image's own view, light and niqab.
        size: side S of the image in pixels.
    """
    field = sampling_field(identity, capture, size)

    def sample(layer: Floats, origin: tuple[float, float] = (0, 0), scale: int = 1) -> Floats:
        x, y = (np.float32(scale) * (field[..., i] - (origin[i] - 0.5)) - 0.5 for i in (0, 1))
        flags = cv2.INTER_CUBIC if scale == 1 else cv2.INTER_LINEAR
        return cv2.remap(layer, x, y, flags, borderMode=cv2.BORDER_REPLICATE)

    above = ((_PAD, 0), (0, 0))
    origin = (0.0, -float(_PAD))
    face = sample(np.pad(painted, (*above, (0, 0)), mode="edge"), origin)
    backdrop = sample(np.pad(portrait.backdrop, above, mode="edge"), origin)[..., None]
    rest = np.clip(1 - sample(portrait.skin + portrait.hair), 0, 1)[..., None]
    turned = face @ _hue_rotation(capture.suit_hue).T.astype(np.float32)
    face = face + rest * (1 - backdrop) * (turned - face)
    face = face * (1 + backdrop * (capture.backdrop - 1))

    # The lamp: the slope of a dome over the head, and a fall-off across the frame.
    offset = (field - np.array((225, 116))) / np.array((60, 72))
    dome = np.exp(-0.5 * (offset**2).sum(-1, keepdims=True))
    across = (offset * dome * 1.1 + 0.12 * offset) @ capture.light[:2, None]
    lamp = capture.exposure * np.exp(np.clip(capture.contrast * across, -0.6, 0.22))
    grain = capture.noise * np.random.default_rng(capture.grain).normal(size=(size, size, 1))

    def develop(layer: Floats) -> Floats:
        lit = layer * lamp
        if capture.blur > 0.2:
            lit = cv2.GaussianBlur(lit, (0, 0), capture.blur * size / 256)
        return lit + grain

    def finish(values: Floats) -> NDArray[np.uint8]:
        pixels = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
        return np.ascontiguousarray(pixels[:, ::-1] if identity.mirrored else pixels)

    bare = develop(face)
    if capture.veil is None:
        return Rendering(finish(bare), finish(bare), None)
    colour, cover = niqab.draw_niqab(capture.veil, capture.light)
    cloth = develop(sample(colour, niqab.ORIGIN, niqab.SCALE))
    share = sample(cover, niqab.ORIGIN, niqab.SCALE)[..., None]
    photo = bare + share * (cloth - bare)
    visible = np.where(share[..., 0] > 0, 0.0, 1.0)
    return Rendering(finish(bare), finish(photo), finish(visible))


def _draw_pairs(names: list[list[str]], seed: int) -> str:
    """CSV text of balanced pairs: no pair twice, both halves of each fold equally long."""
    rng = np.random.default_rng([seed, 4])
    same = [pair for person in names for pair in combinations(person, 2)]
    half = min(PAIRS_PER_FOLD // 2, len(same) // FOLDS)
    same = [same[i] for i in rng.permutation(len(same))[: half * FOLDS]]
    different: dict[tuple[str, str], None] = {}  # a set that keeps its order
    while len(different) < half * FOLDS:
        a, b = (names[person] for person in np.sort(rng.choice(len(names), 2, replace=False)))
        different[a[rng.integers(len(a))], b[rng.integers(len(b))]] = None
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("fold", "a", "b", "same"))
    for fold in range(FOLDS):
        part = slice(fold * half, (fold + 1) * half)
        for flag, pairs in ((1, same[part]), (0, list(different)[part])):
            table.writerows((fold, a, b, flag) for a, b in pairs)
    return text.getvalue()


def _refuse_other_photos(folder: Path, names: set[str]) -> None:
    """Photographs of another set would become identities of this one."""
    photos = folder / "photos"
    for path in sorted(photos.rglob("*")):
        if path.is_file() and path.relative_to(photos).as_posix() not in names:
            raise FaceguideError(
                f"expected an empty folder or an earlier copy of this set, found {path}: "
                "delete it or choose another folder"
            )


def _write_image(path: Path, pixels: NDArray[np.uint8]) -> None:
    done, encoded = cv2.imencode(path.suffix, pixels, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not done:
        raise OSError(0, "OpenCV could not encode it", str(path))
    path.write_bytes(encoded.tobytes())


def write_demo_photos(
    folder: Path, *, identities: int = 12, images: int = 16, size: int = 256, seed: int = 0
) -> None:
    """Write the demo photo set; the same arguments write the same bytes on one type of CPU.

    ``photos/ID/NAME.jpg`` are the pictures, ``masks/ID/NAME_mask.png`` the masks of those with a
    niqab (every third; 255 = visible, the face and the background alike), ``pairs.csv`` (fold, a,
    b, same) the verification pairs relative to ``photos``, ``ATTRIBUTION.txt`` the origin.

    Args:
        folder: made when it is not there; a set written before with the same names is replaced.
        identities: how many identities, at least 2.
        images: pictures of each identity; enough for 10 pairs of one identity over all identities.
        size: side of the square pictures in pixels, at least 64.
        seed: random seed, not negative.

    Raises:
        FaceguideError: when scikit-image is missing, the set would be too small, the folder holds
            other photographs, or a file cannot be written.
    """
    same = identities * images * (images - 1) // 2
    if identities < 2 or images < 2 or same < FOLDS or size < 64 or seed < 0:
        raise FaceguideError(
            "a demo set needs 2 identities, 10 pairs of images of one identity, 64 pixels and a "
            f"seed of 0 or more, found identities={identities}, images={images} ({same} pairs), "
            f"size={size}, seed={seed}: raise what is too small"
        )
    wide, deep = (max(2, len(str(count - 1))) for count in (identities, images))
    people = [f"person_{index:0{wide}d}" for index in range(identities)]
    names = [[f"{who}/{who}_{image:0{deep}d}.jpg" for image in range(images)] for who in people]
    _refuse_other_photos(folder, {name for person in names for name in person})
    portrait = load_portrait()
    try:
        for index, who in enumerate(people):
            identity = draw_identity(index, identities, seed)
            painted = paint(portrait, identity)
            for group in ("photos", "masks"):
                (folder / group / who).mkdir(parents=True, exist_ok=True)
            for image, name in enumerate(names[index]):
                drawn = render(portrait, painted, identity, draw_capture(index, image, seed), size)
                _write_image(folder / "photos" / name, drawn.photo[..., ::-1])
                if drawn.visible is not None:
                    mask = f"{who}/{Path(name).stem}_mask.png"
                    _write_image(folder / "masks" / mask, drawn.visible)
        (folder / "pairs.csv").write_text(_draw_pairs(names, seed), encoding="utf-8", newline="")
        (folder / "ATTRIBUTION.txt").write_text(_ATTRIBUTION, encoding="utf-8")
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""  # a full disk names none
        raise FaceguideError(
            f"cannot write the demo photographs to {folder}: {error.strerror}{where}; choose a "
            "folder that can be written and has room"
        ) from error
