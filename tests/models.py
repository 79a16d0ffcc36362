"""Model files of others, which no package brings.

They lie in the folder of `prep models`: $FACEGUIDE_MODELS, or the user's cache folder. Tests that
need one are skipped where it is absent. YuNet may be the int8 file of opencv_zoo too. The commands
under test see an empty folder, so that what they do does not depend on what the user has.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from faceguide.preprocess.detect.model_files import MODELS, models_folder

_FOLDER = models_folder()
_INT8 = "face_detection_yunet_2023mar_int8bq.onnx"


def hide_models() -> None:
    """From here on, no command finds a model that it was not given."""
    os.environ["FACEGUIDE_MODELS"] = str(Path(tempfile.gettempdir()) / "faceguide-no-models")


def model(name: str) -> Path:
    """The user's file of a model; skips the test that asks when there is none."""
    published = next(known.file for known in MODELS if known.name == name)
    for file in (published, *(_INT8,) * (name == "yunet")):
        if (_FOLDER / file).exists():
            return _FOLDER / file
    pytest.skip(f"no {published} in {_FOLDER}: `prep models --fetch {name}`")
