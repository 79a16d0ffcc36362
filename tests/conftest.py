"""What several test modules share."""

from __future__ import annotations

import atexit
import importlib.util
import os
import re
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from tests import models

models.hide_models()

# The same examples in every CI run: a new find belongs to whoever looks for it, not to the change
# that happens to meet it.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("default", deadline=None)  # a busy machine is no fault
settings.load_profile("ci" if os.environ.get("CI") else "default")

REPOSITORY = Path(__file__).resolve().parents[1]


# What `make check` leaves to `make test`: files that start processes, train, find faces, explain or
# embed. Below this folder, with .py left out; in other files single tests carry the mark `slow`.
SLOW = (
    *("cache/test_workers", "front_door/test_trainers_page"),
    *("bench/test_demo_photos", "bench/test_demo_report", "campaigns", "cluster"),
    *("core/commands/test_full_output", "core/test_no_hard_links"),
    *("evaluate/attribution/test_run", "evaluate/attribution/test_run_networks"),
    *("evaluate/attribution/chimera", "evaluate/attribution/one_pair/test_explain_command"),
    "evaluate/calibrate/test_calibrate_command",
    *("evaluate/attribution/methods/test_gradients", "evaluate/attribution/methods/test_rules"),
    "evaluate/attribution/protocol/test_explain",
    *("evaluate/attribution/protocol/test_separation", "evaluate/ijb", "evaluate/report"),
    *("evaluate/score/test_fusion_fit", "evaluate/score/test_network"),
    *("evaluate/score/test_quick_forward", "evaluate/test_networks_in_commands"),
    "evaluate/test_network_matrix",
    "train/oaml/test_oaml_networks",
    *("evaluate/score/test_real_faces", "evaluate/score/test_scores"),
    *(
        "evaluate/test_doubtful_pairs",
        "evaluate/test_identification",
        "evaluate/test_onnx_commands",
    ),
    *("evaluate/decisions/test_decide_command", "evaluate/occluded"),
    *("evaluate/suite/test_suite_command", "evaluate/surround", "evaluate/test_sface"),
    *("evaluate/test_own_networks", "evaluate/test_parts", "evaluate/test_verification_command"),
    *("front_door/test_face_network", "preprocess/detect/test_boxes"),
    *("preprocess/detect/test_cascade", "preprocess/test_second_looks"),
    *("preprocess/detect/test_finders", "preprocess/detect/test_landmark_check"),
    *("preprocess/masks/test_mask_match", "preprocess/test_landmarks_with_masks"),
    *("preprocess/test_like_cache", "preprocess/test_prep_commands", "preprocess/test_prep_parts"),
    *("train/cal/test_cal_golden", "train/oaml/test_oaml_distributed"),
    *("train/oaml/test_oaml_niqab_folder", "train/oaml/test_oaml_run", "train/run"),
    *("train/models/test_cal_network", "train/models/test_layout"),
    "train/models/backbones/test_backbones",
    "train/distil",
    *("train/test_compile", "train/test_distributed", "train/test_elastic"),
    *("train/test_killed", "train/test_loop"),
    "test_twin_recipe",
    *("train/test_numbers", "train/test_own_network", "train/test_random_start"),
    *("train/test_start_checks", "train/test_train_commands", "train/test_union_training"),
)
FOLDER = Path(__file__).parent
TORCH = importlib.util.find_spec("torch") is not None  # filling and reading a cache need none
NEEDS_TORCH = re.compile(
    r"^(import torch|from (tests|faceguide)\.(train|evaluate))\b", re.MULTILINE
)


def _is_slow(path: Path) -> bool:
    return any(path.with_suffix("").is_relative_to(FOLDER / name) for name in SLOW)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Importing the slow ones costs as much as a third of the others' run."""
    if config.option.markexpr == "not slow" and _is_slow(collection_path):
        return True
    if TORCH or collection_path.suffix != ".py":
        return None
    return bool(NEEDS_TORCH.search(collection_path.read_text("utf-8"))) or None


def pytest_report_header() -> str | None:
    return None if TORCH else "torch is not installed: files that import it are left out"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _is_slow(item.path):
            item.add_marker("slow")


def kept_folder() -> Path:
    """A folder for what is made once and copied by many tests, gone with this process."""
    folder = Path(tempfile.mkdtemp(prefix="faceguide-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and reference numbers next to the repository, which clones lack."""
    folder = REPOSITORY.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("no folder ../shared with real data and reference numbers")
    return folder


@pytest.fixture(scope="session")
def centerface() -> Path:
    """The user's CenterFace."""
    return models.model("centerface")


@pytest.fixture(scope="session")
def yunet() -> Path:
    """The user's YuNet."""
    return models.model("yunet")
