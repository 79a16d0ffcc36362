"""The package mediapipe: whether it is there, what it carries, and its log kept quiet."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from faceguide.core.commands.console import undisturbed
from faceguide.core.errors import FaceguideError

# What Face Mesh runs, inside the package.
_BUNDLED = (
    "face_detection/face_detection_short_range.tflite",
    "face_landmark/face_landmark_with_attention.tflite",
)
# Libraries of the system that mediapipe 1.x links to on Linux, and the packages that have them.
_LIBRARIES = {"libEGL.so.1": "libegl1", "libGLESv2.so.2": "libgles2"}


def version() -> str:
    """The version of the installed mediapipe, which is not imported; empty without one."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version("mediapipe")
    return ""


def bundled_models() -> list[Path]:
    """Face Mesh's networks, which mediapipe carries up to 0.10.21; empty without one of them."""
    spec = importlib.util.find_spec("mediapipe") if version() else None
    if spec is None or spec.origin is None:
        return []
    paths = [Path(spec.origin).parent / "modules" / name for name in _BUNDLED]
    return paths if all(path.exists() for path in paths) else []


def bundled_digest() -> str:
    """Hex sha256 of `bundled_models`, the first 32 digits."""
    content = b"".join(path.read_bytes() for path in bundled_models())
    return hashlib.sha256(content).hexdigest()[:32]


def fault() -> str:
    """Why mediapipe cannot be loaded, and what to do; empty when nothing is missing."""
    if not version():
        return "mediapipe is not installed: pip install 'faceguide[prep]'"
    if sys.platform == "linux" and not bundled_models():
        for library, package in _LIBRARIES.items():
            try:
                ctypes.CDLL(library)
            except OSError:
                return f"mediapipe {version()} needs {library}: apt-get install {package}"
    return ""


def load(*names: str) -> Any:
    """Import mediapipe, and modules of it; the last of them is returned.

    Raises:
        FaceguideError: when it is missing or broken.
    """
    if fault():
        raise FaceguideError(fault())
    try:
        with undisturbed(), quiet():
            found = [importlib.import_module(name) for name in ("mediapipe", *names)]
    except (ImportError, OSError) as error:
        raise FaceguideError(
            f"mediapipe {version()} cannot be loaded ({error}): "
            "pip install --force-reinstall 'faceguide[prep]'"
        ) from error
    return found[-1]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop what native code writes to stderr.

    MediaPipe, absl and TensorFlow Lite log a dozen lines per process while a graph loads; no
    environment variable of theirs stops them. The descriptor is shared, so this wraps no more
    than the loading of a graph.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        with undisturbed():
            yield
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)
