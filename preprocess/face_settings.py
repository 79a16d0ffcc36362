"""The settings of `prep landmarks`, and the recipe that they make."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click
import cv2

from faceguide.cache.schema import OF_DETECTION
from faceguide.core.commands.settings import argument, option
from faceguide.core.commands.shared_options import EXISTING, FILE, FOLDER
from faceguide.core.faces import LANDMARKS
from faceguide.preprocess.detect.boxes.box_detectors import boxes_recipe
from faceguide.preprocess.detect.finders.open_finder import FinderName, finder_of
from faceguide.preprocess.sources.image_sources import Source

# Raise it when the same settings and tools would give other bytes.
REVISION = 6


@dataclass(frozen=True)
class FaceSettings:
    """How faces are found and cut out.

    Attributes:
        source: folder, CSV, .rec, .bin or ND-TWIN's .json.
        landmark_index: the index of `landmarks` inside the cache.
        detect: False takes aligned crops as they are: no landmarks and no pose, and no finder.
    """

    source: Path = argument(type=EXISTING)
    flat: bool = option(False, "Nested folders do not name identities.")
    source_layout: Literal["folders", "auto"] = option(
        "folders", "auto: SOURCE holds published test sets, see `evaluate suite --list`."
    )
    root: Path | None = option(
        None, "Folder that the paths of a CSV start in.  [default: the CSV's]", type=FOLDER
    )
    align: Literal["arcface", "none"] = option(
        "arcface", "Five-point alignment, or none for images that are already aligned."
    )
    size: int = option(112, "Side of the crop in pixels.", type=click.IntRange(16, 1024))
    margin: float = option(
        0.0, "Extra share of the template's side on each side.", type=click.FloatRange(0, 2)
    )
    store: Literal["raw", "jpeg"] = option(
        "raw", "Raw pixels, or JPEG for large crops and sets larger than memory."
    )
    finder: FinderName = option(
        "auto",
        "face-mesh (in mediapipe 0.10.21), landmarker (MediaPipe with --model), opencv (--model "
        "without MediaPipe), or auto, the first that is installed.",
    )
    model: Path | None = option(
        None, "MediaPipe's face_landmarker.task, for landmarker and opencv.", type=FILE
    )
    landmarks: Path | None = option(
        None,
        "Import these landmarks (text or CSV, 478 or 468 points in source pixels); detect only to "
        "compare some.",
        type=EXISTING,
    )
    landmark_index: Path | None = None
    choose: Literal["largest", "center"] = option(
        "largest", "Which face to take when there are several.", "--face"
    )
    check_all: bool = option(False, "Measure the quality of every face (one more pass).")
    boxes: Path | None = option(
        None,
        "Box detector of second looks: centerface.onnx or YuNet.  [default: the best that "
        "`prep models` lists, else MediaPipe's]",
        type=FILE,
    )
    quarter_turns: bool = option(False, "Also look for faces that lie on their side.")
    detect: bool = True

    def row_bytes(self) -> int:
        """Expected bytes of a row in the faces file."""
        pixels = self.size * self.size
        return (3 * pixels if self.store == "raw" else pixels // 2) + 12 * LANDMARKS + 128


def faces_recipe(settings: FaceSettings, source: Source) -> dict[str, Any]:
    """Every parameter and tool version that changes a byte of the faces."""
    if settings.landmarks is not None:
        # A table does not say what made it, and may be too long to be read by every part.
        size = settings.landmarks.stat().st_size
        finder: dict[str, Any] = {
            "finder": {"tool": "imported", "table": settings.landmarks.name, "bytes": size}
        }
    elif not settings.detect:
        finder = {"finder": {"tool": "none"}}
    else:
        found_by = finder_of(settings.finder, settings.model)
        finder = {
            "finder": found_by,
            "choose": settings.choose,
            "check_all": settings.check_all,
            "quarter_turns": settings.quarter_turns,
            "boxes": boxes_recipe(settings.boxes, found_by["tool"]),
            "columns": {column.name: column.described() for column in OF_DETECTION},
        }
    return {
        "revision": REVISION,
        "source": {"kind": source.kind, "name": settings.source.resolve().name},
        "flat": settings.flat,
        "align": settings.align,
        "size": settings.size,
        "margin": settings.margin,
        "store": settings.store,
        "opencv": cv2.__version__,
        **finder,
    }
