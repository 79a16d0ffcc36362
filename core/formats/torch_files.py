"""Files of `torch.save`, read without running anything that is in them.

`torch.load(weights_only=True)` refuses checkpoints that carry settings or callbacks of classes
that it does not know, and searches the text of its refusal in a time that grows with the square of
a name in the file. Here pickle's instructions build tensors and plain containers and nothing else:
no class or function that a file names is ever looked up.
"""

from __future__ import annotations

import collections
import io
import pickle
import types
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from faceguide.core.files import reading
from faceguide.core.formats.pickles import GuardedUnpickler

# What pickle.dumps(torch.serialization.MAGIC_NUMBER, 2) gives: files before torch 1.6 begin so.
_LEGACY = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
_ZIP = b"PK\x03\x04"


class _Inert:
    """Stands where a file names a class that is not loaded: it can be built and filled only."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> _Inert:
        return _Inert()

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass

    def add(self, value: Any) -> None:
        pass


def _tensor(storage: Any, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any) -> Any:
    """A view of a storage, inside it: torch would enlarge the storage to whatever a file claims.

    Hooks and requires_grad, which follow in a file, are left out.
    """
    found = torch.empty(0, dtype=storage.dtype)
    last = offset + sum((long - 1) * step for long, step in zip(size, stride, strict=True))
    bytes_there = storage._untyped_storage.nbytes()
    if all(long > 0 for long in size) and (last + 1) * found.element_size() > bytes_there:
        raise pickle.UnpicklingError("a tensor is larger than what is stored of it")
    return found.set_(storage._untyped_storage, offset, tuple(size), tuple(stride))


def _parameter(data: Tensor, *_: Any) -> Tensor:
    return data


_MAKERS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch", "Size"): tuple,
}


class _Strict(GuardedUnpickler):
    """Builds tensors and containers, and gives them no attributes."""

    makers = _MAKERS
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **pickle._Unpickler.dispatch,
        # Attributes could hide the methods of a container: they are read and left out.
        pickle.BUILD[0]: lambda self: self.stack.pop(),
    }


class _TensorsOnly(_Strict):
    """Makes inert objects of what `_Strict` refuses."""

    def unknown(self, module: str, name: str) -> Any:
        return _Inert


def load_tensors(path: Path, *, strict: bool = False) -> Any:
    """What a file of `torch.save` holds, on the CPU: tensors, containers, numbers and texts.

    Args:
        strict: refuse a file that holds anything else; otherwise an inert object stands for it.

    Raises:
        pickle.UnpicklingError: for another kind of file, a packed one, and a program.
        CacheError: when the system refuses to read it.
        Exception: of almost any kind, when the file is damaged.
    """
    unpickler = _Strict if strict else _TensorsOnly
    reader = types.ModuleType("faceguide_tensors_only")
    reader.Unpickler = unpickler  # type: ignore[attr-defined]
    reader.load = lambda file, **settings: unpickler(file, **settings).load()  # type: ignore[attr-defined]
    source: Path | io.BytesIO = path
    with reading(path), path.open("rb") as file:
        head = file.read(len(_LEGACY))
    if head.startswith(_ZIP):
        _require_plain(path)
    elif head == _LEGACY:
        # From memory: of a file on the disk torch would try whether it is a tar, and unpack that.
        source = io.BytesIO(path.read_bytes())
    else:
        raise pickle.UnpicklingError("it was not written by torch.save")
    # weights_only=False means "by the reader that is given here", which is stricter.
    return torch.load(source, map_location="cpu", weights_only=False, pickle_module=reader)


def _require_plain(path: Path) -> None:
    """torch.save packs nothing: what is packed may unpack to a thousandfold. It writes no
    programs either, which torch.load would run."""
    if not zipfile.is_zipfile(path):  # the list of its contents is its end
        raise pickle.UnpicklingError("it breaks off before its end; take another copy")
    with zipfile.ZipFile(path) as file:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in file.infolist()):
            raise pickle.UnpicklingError("it is a packed archive; torch.save packs nothing")
    # As torch reads the archive, which may differ from what zipfile makes of it.
    records = torch._C.PyTorchFileReader(str(path)).get_all_records()
    if "constants.pkl" in records:
        raise pickle.UnpicklingError("it is a TorchScript program; save its state_dict instead")
