"""`.safetensors` files that are equal for equal weights, and that tell when a byte has changed.

The package orders the metadata by chance and keeps no checksum. Files of ours list it in order
and hold the sha256 of the file, taken with zeros in its own place; any reader of safetensors
reads them, and files of others are read as they are.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from torch import Tensor

from faceguide.core.errors import CheckpointError

_WRITER, _DIGEST = "written_by", "sha256"
_OURS = "faceguide"
_ZEROS = "0" * 64
_PLACE = re.compile(rb'"sha256":"([0-9a-f]{64})"')


def safetensors_bytes(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """The content of a file: the same tensors and metadata give the same bytes.

    Args:
        tensors: by name; contiguous, without shared memory.
        metadata: what a reader must know of them.

    Raises:
        CheckpointError: when the package safetensors is not installed.
    """
    try:
        from safetensors.torch import save
    except ImportError:
        raise CheckpointError(
            "writing weights needs the package safetensors: pip install safetensors"
        ) from None
    header, body = _split(save(tensors))
    described = {
        "__metadata__": {_WRITER: _OURS, _DIGEST: _ZEROS, **dict(sorted(metadata.items()))},
        **json.loads(header),
    }
    text = json.dumps(described, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8
    whole = len(text).to_bytes(8, "little") + text + body
    return whole.replace(_ZEROS.encode(), hashlib.sha256(whole).hexdigest().encode(), 1)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the text metadata of a `.safetensors` file.

    Raises:
        CheckpointError: when the file is missing, is not safetensors, or is one of ours that was
            changed since it was written.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load
    except ImportError:
        raise CheckpointError(
            f"reading {path} needs the package safetensors: pip install safetensors"
        ) from None
    try:
        whole = path.read_bytes()
        tensors = load(whole)
        header, _ = _split(whole)
        metadata = json.loads(header).get("__metadata__") or {}
    except (SafetensorError, OSError, ValueError) as fault:
        text = (str(fault).splitlines() or [type(fault).__name__])[0][:160]
        raise CheckpointError(f"cannot read {path} as safetensors: {text}") from None
    place = _PLACE.search(header)
    if place is not None or metadata.get(_WRITER) == _OURS:
        if place is None or not _intact(whole, 8 + place.start(1), place[1]):
            raise CheckpointError(
                f"{path}: changed since it was written; copy it again, or export it anew"
            )
        metadata = {key: metadata[key] for key in metadata if key not in (_WRITER, _DIGEST)}
    return tensors, metadata


def _split(whole: bytes) -> tuple[bytes, bytes]:
    """Header and tensors."""
    start = 8 + int.from_bytes(whole[:8], "little")
    return whole[8:start], whole[start:]


def _intact(whole: bytes, start: int, found: bytes) -> bool:
    expected = hashlib.sha256(whole[:start])
    expected.update(_ZEROS.encode())
    expected.update(memoryview(whole)[start + 64 :])
    return expected.hexdigest().encode() == found
