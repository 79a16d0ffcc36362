"""Payloads that do nothing.

Tested where their readers are: code in `.bin` (formats/test_verification_bin) and in weights
(models/test_models_checkpoint), picture bombs (faces/test_decode, masks/test_mask_files),
names that leave a source or a folder of masks and links out of a source
(sources/test_image_sources, masks/test_mask_files), weights outside a run
(evaluate/score/test_network), names in HTML, LaTeX and terminals (evaluate/report/test_report,
cache/test_cache_commands). Here: the rest.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from tests.cache.builder import build

from faceguide.cache import FaceCache
from faceguide.cache.inspect.verify import verify
from faceguide.cache.manifest import failures
from faceguide.cache.opening import opening_digest
from faceguide.cache.schema import bytes_digest, columns
from faceguide.core.errors import CacheError, CheckpointError, EvaluationError, FaceguideError
from faceguide.core.files import file_sha256, read_json, write_json
from faceguide.core.formats.container import sealed
from faceguide.core.formats.library_files import append_digest
from faceguide.evaluate.score.block_files import read_block
from faceguide.preprocess.masks.mask_finder import MaskError, MaskFinder
from faceguide.train.data.samplers import GraphBatches
from faceguide.train.models.loading.network import load_network
from faceguide.train.models.weights import read_state
from faceguide.train.run.checkpoint import load_state


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.marker),)


def _state(path: Path, payload: Payload) -> object:
    torch.save({"format": 2, "module": payload}, path)
    append_digest(path)
    return load_state(path, "")


@pytest.mark.parametrize("load", [_state])
def test_code_in_the_files_of_a_run_does_not_run(
    load: Callable[[Path, Payload], object], tmp_path: Path
) -> None:
    marker = tmp_path / "pwned"
    with pytest.raises(FaceguideError) as caught:
        load(tmp_path / "last.pt", Payload(marker))
    assert "\n" not in str(caught.value)
    assert not marker.exists()


def test_a_packed_checkpoint_is_not_unpacked(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1 << 20)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name))
    assert (tmp_path / "bomb.pt").stat().st_size < 20_000
    with pytest.raises(CheckpointError, match="is a packed archive"):
        read_state(tmp_path / "bomb.pt")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    build(tmp_path / "cache", rows=12, shard_rows=12)
    return tmp_path / "cache"


def forge(directory: Path, change: Callable[[h5py.File], object], **entry: Any) -> None:
    """Change a shard, and say in sidecar and manifest that it has always been so."""
    path = directory / "faces-00000.h5"
    with h5py.File(path, "r+") as file:
        change(file)
    manifest = read_json(directory / "manifest-faces.json")
    shard = manifest["shards"][0]
    shard |= {"bytes": path.stat().st_size, "sha256": file_sha256(path), **entry}
    specs = columns("faces", manifest["recipe"])
    with suppress(TypeError, ValueError), path.open("rb") as opened:
        shard["opening"] = opening_digest(opened.fileno(), shard["offsets"], specs, 12)
    write_json(directory / "manifest-faces.json", manifest)


def _link(file: h5py.File) -> None:
    del file["label"]
    file["label"] = h5py.ExternalLink("../secret.h5", "label")


def _virtual(file: h5py.File) -> None:
    del file["label"]
    layout = h5py.VirtualLayout((12,), "<i8")
    layout[:] = h5py.VirtualSource("../secret.h5", "label", (12,), "<i8")
    file.create_virtual_dataset("label", layout)


def _outside(file: h5py.File) -> None:
    del file["label"]
    file.create_dataset("label", (12,), "<i8", external=[("../secret.h5", 0, 96)])


def _bomb(file: h5py.File) -> None:
    del file["label"]
    file.create_dataset("label", (1 << 40,), "<i8", chunks=(1 << 20,), compression="gzip")


@pytest.mark.parametrize("change", [_link, _virtual, _outside, _bomb])
def test_hdf5_that_leads_elsewhere_is_reported_and_never_followed(
    change: Callable[[h5py.File], object], cache: Path
) -> None:
    with h5py.File(cache.parent / "secret.h5", "w") as secret:
        secret.create_dataset("label", data=np.arange(1000, 1012))
    before = FaceCache.open(cache).read(range(12), ["label"])["label"]
    forge(cache, change)
    assert any("label is" in problem for problem in verify(cache)[0])
    # Reading takes what lies at the manifest's offsets, and asks HDF5 for nothing.
    with suppress(CacheError):
        read = FaceCache.open(cache).read(range(12), ["label"])["label"]
        np.testing.assert_array_equal(read, before)


@pytest.mark.parametrize("place", [1, 5, 12])
def test_texts_are_cut_inside_their_column(cache: Path, place: int) -> None:
    manifest = read_json(cache / "manifest-faces.json")
    shard, path = manifest["shards"][0], cache / "faces-00000.h5"
    data = bytearray(path.read_bytes())
    start = shard["offsets"]["offset/key"]
    for value in (1 << 20, 1 << 62, (1 << 64) - 1):
        data[start + 8 * place : start + 8 * place + 8] = value.to_bytes(8, "little")
        path.write_bytes(data)
        ends = np.frombuffer(data, "<u8", 13, start)
        first = shard["offsets"]["key"]
        texts = data[first : first + int(ends[-1])]
        forge(cache, lambda file: None, texts={**shard["texts"], "key": bytes_digest(ends, texts)})
        with pytest.raises(CacheError, match="damaged offset table"):
            FaceCache.open(cache).texts("key", range(12))


def test_arrays_of_absurd_size_are_refused_unread(tmp_path: Path) -> None:
    for name, shape, end in (("a", [1 << 40], 8 << 40), ("a", [4], 32), ("a", [2, 2], 8)):
        table = {name: {"dtype": "F64", "shape": shape, "data_offsets": [0, end]}}
        text = json.dumps({"__metadata__": {"key": "k"}, **table}).encode()
        plain = len(text).to_bytes(8, "little") + text + bytes(24)
        path = tmp_path / "b.safetensors"
        path.write_bytes(b"".join(map(bytes, sealed(plain, {"key": "k"}))))
        with pytest.raises(CacheError, match=r"b\.safetensors: not readable as safetensors \("):
            read_block(path, "k")


@pytest.mark.parametrize("start", [-4096, 1 << 40, "0", 4096.0, None])
def test_a_column_outside_its_file_is_refused_before_it_is_mapped(cache: Path, start: Any) -> None:
    offsets = read_json(cache / "manifest-faces.json")["shards"][0]["offsets"]
    forge(cache, lambda file: None, offsets={**offsets, "image": start})
    with pytest.raises(CacheError, match=r"manifest-faces\.json: does not match the plan"):
        FaceCache.open(cache)
    # The last byte that fits, and the first that does not.
    size = (cache / "faces-00000.h5").stat().st_size
    forge(cache, lambda file: None, offsets={**offsets, "image": size - 12 * 768})
    with pytest.raises(CacheError, match="differs from its digest"):
        FaceCache.open(cache).read(range(12), ["image"])
    forge(cache, lambda file: None, offsets={**offsets, "image": size - 12 * 768 + 1})
    with pytest.raises(CacheError, match="does not match the plan"):
        FaceCache.open(cache)


def test_a_plan_of_absurd_length_is_refused_at_once(cache: Path) -> None:
    plan = read_json(cache / "plan.json")
    write_json(cache / "plan.json", {**plan, "rows": 1 << 40, "shards": 1 << 40, "shard_rows": 1})
    for read in (FaceCache.open, verify, lambda path: list(failures(path))):
        with pytest.raises(CacheError, match="contradict each other"):
            read(cache)


def test_json_of_any_depth_is_refused(cache: Path) -> None:
    for depth in (400, 900, 100_000):
        (cache / "plan.json").write_text('{"a": ' + "[" * depth + "]" * depth + "}")
        with pytest.raises(CacheError, match=r"plan\.json: (not readable as JSON|changed since)"):
            FaceCache.open(cache)


def test_a_run_cannot_ask_for_a_huge_network(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "w.pt")
    for arguments, message in (
        ({"num_classes": 10**9, "heads": 32}, "do not come out of"),
        ({"num_classes": "many"}, "cannot be built"),
        ({"colour": "red"}, "its arguments are"),
    ):
        entry = {"name": "cal_mobilefacenet", "arguments": arguments, "weights": "w.pt"}
        write_json(tmp_path / "run.json", {"models": {"backbone": entry}})
        with pytest.raises(FaceguideError, match=message):
            load_network(None, tmp_path)
    entry = {"name": "mobilefacenet", "weights": "w.pt"}
    write_json(tmp_path / "run.json", {"models": {"backbone": entry}, "map": [7]})
    with pytest.raises((EvaluationError, CheckpointError)):
        load_network(None, tmp_path)


def test_a_mask_behind_a_link_that_leaves_its_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "secret.png").write_bytes(b"x")
    (tmp_path / "masks" / "a.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "masks" / "b.png").write_bytes(b"x")
    (tmp_path / "masks" / "c.png").symlink_to("b.png")
    table = tmp_path / "table.csv"
    table.write_text("image,mask\na.jpg,a.png\n")
    for finder in (MaskFinder(tmp_path / "masks"), MaskFinder(tmp_path / "masks", table)):
        with pytest.raises(MaskError, match=r"a\.png: leads out of the folder of masks"):
            finder.find("a.jpg")
    assert MaskFinder(tmp_path / "masks").find("c.jpg") == tmp_path / "masks" / "c.png"


def test_a_damaged_file_of_neighbours_is_refused(tmp_path: Path) -> None:
    kept = tmp_path / "neighbours.safetensors"
    kept.write_bytes(b"PK")
    rows = np.arange(24)
    graph = GraphBatches(
        rows, rows // 4, 8, similarity=lambda chosen: np.eye(len(chosen)), keep=kept
    )
    with pytest.raises(CacheError, match="remove it"):
        graph.neighbours()
