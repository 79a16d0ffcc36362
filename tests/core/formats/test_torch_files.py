"""What a file of torch.save may hold, and what nobody gets from it."""

from __future__ import annotations

import collections
import io
import pickle
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from faceguide.core.errors import CacheError, CheckpointError
from faceguide.core.formats.torch_files import load_tensors
from faceguide.train.models.weights import read_state
from faceguide.train.run.checkpoint import load_state


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("strict", [True, False])
def test_tensors_of_every_kind_come_back(tmp_path: Path, zipped: bool, strict: bool) -> None:
    base = torch.arange(24.0)
    content = {
        "view": base.view(4, 6).t()[1:, ::2],
        "shared": base[3:5],
        "half": torch.ones(2, dtype=torch.bfloat16),
        "count": torch.tensor(7),
        "none": torch.empty(0, 5),
        "wide": torch.ones(1).expand(1000),
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "ordered": collections.OrderedDict(a=1, b=[2.5, "c", (None, True)]),
        "size": torch.Size([1, 2]),
    }
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    found = load_tensors(tmp_path / "a.pt", strict=strict)
    for name, value in content.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(found[name], value), name
            assert found[name].dtype == value.dtype
            assert not found[name].requires_grad
        else:
            assert found[name] == value
    assert found["shared"].untyped_storage().data_ptr() == (
        found["view"].untyped_storage().data_ptr()
    )


def test_modules_and_optimisers_come_back(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimiser = torch.optim.AdamW(module.parameters())
    module(torch.rand(5, 3)).sum().backward()
    optimiser.step()
    state = {"module": module.state_dict(), "optimiser": optimiser.state_dict()}
    torch.save(state, tmp_path / "a.pt")
    found = load_tensors(tmp_path / "a.pt", strict=True)
    twin = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    twin.load_state_dict(found["module"])
    for key, value in twin.state_dict().items():
        assert torch.equal(value, state["module"][key])
    assert found["optimiser"]["param_groups"] == state["optimiser"]["param_groups"]


class _Program(torch.nn.Module):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values + 1


@pytest.mark.parametrize("strict", [True, False])
def test_a_program_is_not_loaded(tmp_path: Path, strict: bool) -> None:
    path = tmp_path / "program.pt"
    torch.jit.save(torch.jit.script(_Program()), path)
    with pytest.raises(pickle.UnpicklingError, match=r"TorchScript|packed"):
        load_tensors(path, strict=strict)
    plain = tmp_path / "plain.pt"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(plain, "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    assert isinstance(torch.jit.load(plain), torch.jit.ScriptModule), "the case is real"
    with pytest.raises(pickle.UnpicklingError, match="TorchScript"):
        load_tensors(plain, strict=strict)


def test_a_tar_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A name that begins as torch's files do: a tar none the less.
    path = tmp_path / "a.pt"
    begin = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT, encoding="latin-1") as tar:
        name = begin.decode("latin-1")
        for entry in (name, "storages", "tensors"):
            about = tarfile.TarInfo(entry)
            about.size = 3
            tar.addfile(about, io.BytesIO(b"abc"))

    assert path.read_bytes().startswith(begin)

    unpacked: list[str] = []
    monkeypatch.setattr(tarfile.TarFile, "extract", lambda _, name, **__: unpacked.append(name))
    with pytest.raises(FileNotFoundError):
        torch.load(path, weights_only=False)
    assert unpacked == ["storages"], "the case is real"
    unpacked.clear()
    with pytest.raises(CheckpointError, match="found something else"):
        read_state(path)
    assert not unpacked


class _Claim:
    """Says to be a tensor of another size."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __reduce__(self) -> tuple[Any, ...]:
        storage = torch.zeros(4)._typed_storage()
        arguments = (storage, 0, (self.size,), (1,), False, collections.OrderedDict())
        return torch._utils._rebuild_tensor_v2, arguments


def test_a_tensor_is_no_larger_than_its_bytes(tmp_path: Path) -> None:
    torch.save({"a": _Claim(4)}, tmp_path / "whole.pt")
    assert load_tensors(tmp_path / "whole.pt")["a"].shape == (4,)
    torch.save({"a": _Claim(1 << 30)}, tmp_path / "claim.pt")
    with pytest.raises(pickle.UnpicklingError, match="larger than what is stored"):
        load_tensors(tmp_path / "claim.pt")


class _Shadow(collections.OrderedDict):  # type: ignore[type-arg]
    """An OrderedDict whose attributes hide its methods."""

    def __reduce__(self) -> tuple[Any, ...]:
        return collections.OrderedDict, ([("a", torch.ones(1))],), {"items": 5, "get": 6}


def test_attributes_do_not_hide_methods(tmp_path: Path) -> None:
    torch.save(_Shadow(), tmp_path / "a.pt")
    assert torch.load(tmp_path / "a.pt", weights_only=False).items == 5  # the case is real
    assert list(load_tensors(tmp_path / "a.pt").items()) == [("a", torch.ones(1))]


def _with_pickle(path: Path, content: bytes) -> Path:
    torch.save({}, path)
    with zipfile.ZipFile(path) as old:
        entries = {entry.filename: old.read(entry) for entry in old.infolist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, data in entries.items():
            new.writestr(name, content if name.endswith("/data.pkl") else data)
    return path


def test_a_name_without_end_takes_no_time(tmp_path: Path) -> None:
    name = b"x" * (1 << 20)
    path = _with_pickle(tmp_path / "a.pt", b"\x80\x02c" + name + b"\n" + name + b"\n.")
    began = time.monotonic()
    with pytest.raises(pickle.UnpicklingError, match=r"x{160},"):
        load_tensors(path, strict=True)
    load_tensors(path)
    assert time.monotonic() - began < 5


def test_a_place_in_the_memo_takes_no_memory(tmp_path: Path) -> None:
    import resource

    place = (1 << 30).to_bytes(4, "little")
    path = _with_pickle(tmp_path / "a.pt", b"\x80\x02]r" + place + b".")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert load_tensors(path) == []
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 18  # KiB


@pytest.mark.parametrize("read", [load_tensors, read_state, lambda path: load_state(path, "")])
def test_a_disk_that_fails_is_not_taken_for_a_damaged_file(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    path = tmp_path / "last.pt"
    path.symlink_to("/proc/self/mem")  # there is nothing at its beginning: reading gives EIO
    with pytest.raises(CacheError, match=r"last\.pt: cannot read: ") as refused:
        read(path)
    assert "remove" not in str(refused.value)
