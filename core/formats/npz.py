"""NumPy's archives (.npz) that tell when they were changed: written whole, a digest behind."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.core.errors import CacheError
from faceguide.core.files import (
    append_digest,
    digest_intact,
    replacing,
)


def write_npz(path: Path, **arrays: Any) -> None:
    """Write arrays as one archive that `numpy.load` reads, atomically.

    Raises:
        CacheError: when the system refuses the write.
    """
    stream = io.BytesIO()  # in memory first: zipfile cannot be stopped when a disk is full
    np.savez(stream, **arrays)
    with replacing(path) as temporary:
        temporary.write_bytes(stream.getbuffer())
        append_digest(temporary)


def read_npz(path: Path, names: Iterable[str], remedy: str) -> dict[str, NDArray[Any]]:
    """The named arrays of a file that `write_npz` wrote.

    Args:
        path: the file.
        names: arrays that it must hold.
        remedy: what to do about a file that cannot be used, for the error.

    Raises:
        CacheError: when the file was changed, is no such archive or lacks an array.
        FileNotFoundError: when there is no file.
    """
    if not digest_intact(path):
        raise CacheError(f"{path}: changed since it was written; {remedy}")
    try:
        with np.load(path, allow_pickle=False) as file:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in file.zip.infolist()):
                raise ValueError("it is packed, and may unpack to any size")
            return {name: file[name] for name in names}
    except FileNotFoundError:
        raise
    except Exception as error:  # zipfile raises almost anything
        raise CacheError(f"{path}: not readable ({error}); {remedy}") from None
