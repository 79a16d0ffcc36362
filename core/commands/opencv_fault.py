"""Why OpenCV does not load, in one line with the remedy.

opencv-python, opencv-contrib-python and their headless kin write the same folder `cv2`. Two of them
often work together, so nothing is said until `cv2` fails: a mix of versions may not load, and
uninstalling one takes files of the other with it.
"""

from __future__ import annotations

import importlib.metadata
import traceback
from pathlib import Path

REQUIRED = "opencv-contrib-python"  # as setup.cfg and mediapipe ask for


def opencv_fault(error: ImportError | AttributeError) -> str | None:
    """What is wrong with `cv2` when importing a group ended in `error`; None: something else."""
    called = traceback.extract_tb(error.__traceback__)
    if "cv2" not in f"{error.name} {error}" and "cv2" not in {
        Path(frame.filename).parent.name for frame in called
    }:
        return None
    fault = f"OpenCV does not load ({error})"
    if ".so" in str(error) and "cannot open shared object" in str(error):
        return f"{fault}: sudo apt-get install libgl1 libglib2.0-0"
    owners = sorted(set(importlib.metadata.packages_distributions().get("cv2", ())))
    if len(owners) > 1:
        named = " and ".join(f"{owner} {importlib.metadata.version(owner)}" for owner in owners)
        return (
            f"{fault}: {named} write the same folder; pip uninstall --yes {' '.join(owners)} && "
            f"pip install {REQUIRED}"
        )
    return f"{fault}: pip install --force-reinstall --no-deps {REQUIRED}"
