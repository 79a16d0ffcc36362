"""faceguide: what guides a face network, computed once and kept.

The front door, see docs/python.md. The sub-packages live in the folders of the same name at the
top of the repository: ``faceguide.preprocess`` fills a cache, ``faceguide.cache`` keeps and
streams it, ``faceguide.train`` learns from it and ``faceguide.evaluate`` measures what was learnt.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from faceguide.cache import FaceCache, FaceguideError, Stream
    from faceguide.dataset import Dataset
    from faceguide.explaining import explain, explain_pair
    from faceguide.face import Face, align
    from faceguide.face_network import FaceNetwork, load

    open = FaceCache.open

__version__ = "0.1.0"
__all__ = [
    "Dataset",
    "Face",
    "FaceCache",
    "FaceNetwork",
    "FaceguideError",
    "Stream",
    "align",
    "explain",
    "explain_pair",
    "load",
    "open",
]

# Imported when first used: torch alone takes a second, and a cache is opened without it.
_HOMES = {
    "Dataset": "dataset",
    "Face": "face",
    "FaceCache": "cache",
    "FaceNetwork": "face_network",
    "FaceguideError": "cache",
    "Stream": "cache",
    "align": "face",
    "explain": "explaining",
    "explain_pair": "explaining",
    "load": "face_network",
    "open": "cache",
}


if not TYPE_CHECKING:  # a name that is not there must not pass as Any

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = importlib.import_module(f"{__name__}.{_HOMES[name]}")
        found = module.FaceCache.open if name == "open" else getattr(module, name)
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
