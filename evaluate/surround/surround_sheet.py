"""A sheet of what the surround test compared, to look at rather than to read."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from faceguide.evaluate.surround.looked_at import COVERS, Faces

_TITLES = ("face", "surround", "composed", *COVERS)
_TILE, _GAP, _LINE = 112, 4, 18  # pixels
_EXAMPLES = 10
_INK, _ACCEPTED, _PAPER = (25, 25, 25), (200, 30, 40), (255, 255, 255)


def surround_sheet(faces: Faces, scores: NDArray[np.float64], threshold: float) -> bytes:
    """A PNG of examples, from the composed face most like the owner of its surround downwards.

    Half of them have the highest scores, the others lie evenly over the rest. A score that passes
    the threshold is red.

    Args:
        scores: (K,) of s, X(f, s).
    """
    order = np.argsort(-scores)
    top = min(_EXAMPLES // 2, len(order))
    rest = np.linspace(top, len(order) - 1, _EXAMPLES - top).astype(int)
    shown = dict.fromkeys([*range(top), *(rest.tolist() if len(order) > top else [])])
    width = len(_TITLES) * (_TILE + _GAP) + _GAP
    sheet = Image.new("RGB", (width, _LINE + len(shown) * (_TILE + _LINE + _GAP)), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for column, title in enumerate(_TITLES):
        draw.text((_GAP + column * (_TILE + _GAP), 1), title, _INK, font)
    for line, place in enumerate(shown):
        number = int(order[place])
        face, surround = int(faces.face[number]), int(faces.surround[number])
        tiles = [faces.images[face], faces.images[surround], faces.composed(number)]
        above = _LINE + line * (_TILE + _LINE + _GAP)
        for column, tile in enumerate([*tiles, *faces.covered(face)]):
            small = Image.fromarray(tile).resize((_TILE, _TILE), Image.Resampling.LANCZOS)
            sheet.paste(small, (_GAP + column * (_TILE + _GAP), above))
        accepted = scores[number] >= threshold
        text = f"composed and surround {scores[number]:.3f}"
        text += f": accepted, threshold {threshold:.3f}" if accepted else ""
        colour = _ACCEPTED if accepted else _INK
        draw.text((_GAP, above + _TILE + 1), text, colour, font)
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    return stream.getvalue()
