"""Payloads that do nothing.

Tested where their readers are: code in `.bin` (cache/test_verification_bin) and in weights
(train/models/test_models_checkpoint), picture bombs (preprocess/test_decode, test_mask_files),
names that leave a source or a folder of masks and links out of a source (preprocess/test_sources,
test_mask_files), weights outside a run (evaluate/test_network), names in HTML, LaTeX and terminals
(evaluate/test_report, cache/test_cache_commands). Here: the rest.
"""

from __future__ import annotations

import os
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from tests.cache.builder import build

from faceguide.cache import FaceCache, Stream
from faceguide.cache.inspect.verify import verify
from faceguide.cache.manifest import failures
from faceguide.core.errors import (
    CacheError,
    CheckpointError,
    EvaluationError,
    FaceguideError,
)
from faceguide.core.files import (
    append_digest,
    file_sha256,
    read_json,
    write_json,
)
from faceguide.evaluate.score.block_files import read_arrays
from faceguide.evaluate.score.network import load_network
from faceguide.evaluate.verification import load_scores
from faceguide.preprocess.masks.mask_files import (
    MaskError,
    MaskFinder,
)
from faceguide.train.data.samplers import GraphBatches
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


def _scores(path: Path, payload: Payload) -> object:
    np.savez(path.with_name("scores.npz"), listed=np.array([payload], object))
    append_digest(path.with_name("scores.npz"))
    return load_scores(path.parent)


def _neighbours(path: Path, payload: Payload) -> object:
    kept = path.with_name("neighbours.npz")
    np.savez(kept, epoch=0, seed=0, neighbours=np.array([payload], object))
    append_digest(kept)
    rows = np.arange(24)
    return GraphBatches(rows, rows // 4, 8, lambda chosen: np.eye(len(chosen)), kept).neighbours()


@pytest.mark.parametrize("load", [_state, _scores, _neighbours])
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
    """Change a shard, and say in the manifest that it has always been so."""
    path = directory / "faces-00000.h5"
    with h5py.File(path, "r+") as file:
        change(file)
    manifest = read_json(directory / "manifest-faces.json")
    manifest["shards"][0].pop("opening", None)  # nobody has to say it
    manifest["shards"][0] |= {
        "bytes": path.stat().st_size, "sha256": file_sha256(path), **entry
    }  # fmt: skip
    write_json(directory / "manifest-faces.json", manifest)


def _link_key(file: h5py.File) -> None:
    del file["key"]
    file["key"] = h5py.ExternalLink("../secret.h5", "key")


def _link_group(file: h5py.File) -> None:
    del file["meta"]
    file["meta"] = h5py.ExternalLink("../secret.h5", "/")


def _virtual_key(file: h5py.File) -> None:
    del file["key"]
    layout = h5py.VirtualLayout((12,), h5py.string_dtype())
    layout[:] = h5py.VirtualSource("../secret.h5", "key", (12,), h5py.string_dtype())
    file.create_virtual_dataset("key", layout)


@pytest.mark.parametrize(
    ("change", "column"), [(_link_key, "key"), (_link_group, "meta/split"), (_virtual_key, "key")]
)
def test_a_shard_cannot_show_another_file(
    change: Callable[[h5py.File], object], column: str, cache: Path
) -> None:
    with h5py.File(cache.parent / "secret.h5", "w") as secret:
        for name in ("key", "split"):
            secret.create_dataset(name, data=["secret"] * 12, dtype=h5py.string_dtype())
    forge(cache, change)
    with pytest.raises(
        CacheError, match=r"faces-00000\.h5: not readable as HDF5 \(.*(link|no dat)"
    ):
        FaceCache.open(cache).texts(column, [0])
    assert verify(cache)[0]


def test_values_of_another_file_are_not_read_through_a_shard(cache: Path) -> None:
    (cache.parent / "secret").write_bytes(bytes(range(1, 97)))

    def outside(file: h5py.File) -> None:
        del file["label"]
        files = [(str(cache.parent / "secret"), 0, 96)]
        file.create_dataset("label", (12,), "<i8", external=files)

    forge(cache, outside, offsets={})
    with pytest.raises(CacheError, match="label is no dataset of this file"):
        FaceCache.open(cache).read([0], ["label"])


def test_blocks_of_scores_show_no_other_file_and_unpack_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(range(1, 97)))
    outside = [(str(tmp_path / "secret"), 0, 96)]
    wrong: list[dict[str, Any]] = [
        {"shape": (12,), "external": outside},
        {"shape": (1 << 40,)},
        {"shape": (1 << 28,), "chunks": (1 << 20,), "compression": "gzip"},
        {"shape": (2,), "dtype": h5py.string_dtype()},
    ]
    for number, settings in enumerate(wrong):
        path = tmp_path / f"{number}.h5"
        with h5py.File(path, "w") as file:
            file.attrs["key"] = np.bytes_(b"k")
            file.create_dataset("maps", **{"dtype": "<f8", **settings})
        append_digest(path)
        with pytest.raises(EvaluationError, match=r"\.h5: not readable as HDF5 \(maps (is|does)"):
            read_arrays(path, "k")


def test_a_shard_of_absurd_size_is_refused_unread(cache: Path) -> None:
    def bomb(file: h5py.File) -> None:
        del file["image"]
        file.create_dataset("image", (1 << 40, 16, 16, 3), "u1", chunks=(1 << 20, 16, 16, 3),
                            compression="gzip")  # fmt: skip
        del file["quality"]
        file.create_dataset("quality", (12,), "<f4", chunks=(12,), maxshape=(None,))
        del file["pose"]
        file.create_dataset("pose", (12, 3), "<f4", chunks=(1 << 28, 3), maxshape=(None, 3))

    forge(cache, bomb, offsets={})
    opened = FaceCache.open(cache)
    with pytest.raises(CacheError, match=r"image is uint8 \(1099511627776, 16, 16, 3\), expected"):
        opened.read([0], ["image"])
    with pytest.raises(CacheError, match="pose has chunks of"):
        opened.read([0], ["pose"])
    assert opened.read([0], ["quality"])["quality"] == [0.0]


def test_an_oversized_attribute_is_not_loaded(cache: Path) -> None:
    path, big = cache / "faces-00000.h5", cache.parent / "big.h5"
    with h5py.File(path) as file, h5py.File(big, "w", libver="latest") as packed:
        packed.attrs["note"] = np.zeros(32 << 20, np.uint8)
        file.copy("key", packed)
    big.replace(path)
    forge(cache, lambda file: None, offsets={})
    tracemalloc.start()
    keys = FaceCache.open(cache).texts("key", range(12))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(set(keys)) == 12
    assert peak < 4 << 20


@pytest.mark.parametrize("start", [-4096, 1 << 40, "0", 4096.0, None])
def test_a_column_outside_its_file_is_refused_before_it_is_mapped(cache: Path, start: Any) -> None:
    offsets = read_json(cache / "manifest-faces.json")["shards"][0]["offsets"]
    forge(cache, lambda file: None, offsets={**offsets, "image": start})
    with pytest.raises(CacheError, match=r"manifest-faces\.json: does not match the plan"):
        FaceCache.open(cache)
    # The last byte that fits, and the first that does not. Rows that can be put together without
    # HDF5 would be compared with their checksums.
    size = (cache / "faces-00000.h5").stat().st_size
    del offsets["pose"]
    forge(cache, lambda file: None, offsets={**offsets, "image": size - 12 * 768})
    stream = Stream(FaceCache.open(cache), np.arange(12), columns=("image",), batch_size=12)
    assert len(list(stream)) == 1
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
    kept = tmp_path / "neighbours.npz"
    kept.write_bytes(b"PK")
    rows = np.arange(24)
    graph = GraphBatches(rows, rows // 4, 8, lambda chosen: np.eye(len(chosen)), kept)
    with pytest.raises(CacheError, match="remove it to compare the persons anew"):
        graph.neighbours()
