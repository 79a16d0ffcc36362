"""`prep` in this process, with whatever finder the environment has."""

from __future__ import annotations

import pytest
from click.testing import CliRunner, Result
from tests.conftest import REPOSITORY

from faceguide.preprocess.cli import main
from faceguide.preprocess.detect.finders.mediapipe_package import bundled_models

_MODEL = REPOSITORY.parent / "shared" / "data" / "mediapipe" / "face_landmarker.task"


needs_face_mesh = pytest.mark.skipif(
    not bundled_models(), reason="needs the models that mediapipe 0.10.21 carries"
)


def prep(*arguments: object) -> Result:
    """Run `prep`; where no finder carries its models, those of ../shared find the faces."""
    words = [str(argument) for argument in arguments]
    if words[0] in ("landmarks", "plan") and "--model" not in words and not bundled_models():
        if not _MODEL.exists():
            pytest.skip(f"this mediapipe carries no models, and there is no {_MODEL}")
        words += ["--model", str(_MODEL)]
    return CliRunner().invoke(main, words)
