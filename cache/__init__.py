"""The cache: what guides a face network, in HDF5 shards that are written whole and mapped."""

from typing import TYPE_CHECKING, Any

from faceguide.cache.reader import FaceCache
from faceguide.core.errors import CacheError, FaceguideError

if TYPE_CHECKING:
    from faceguide.cache.stream import Stream

__all__ = ["CacheError", "FaceCache", "FaceguideError", "Stream"]


def __getattr__(name: str) -> Any:
    # Streaming needs torch, filling a cache does not: workers that detect faces start faster.
    if name == "Stream":
        from faceguide.cache.stream import Stream

        return Stream
    raise AttributeError(name)
