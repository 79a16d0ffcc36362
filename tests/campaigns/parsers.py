"""Every parser of files from outside, with valid inputs to begin with.

A parser's `parse` writes one input where the product would find it, reads it by the product's own
functions, and tells whether it was read or refused; whatever else is raised is a fault.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL import Image
from tests.cache.builder import build
from tests.campaigns.mutations import BYTES, JSON, TEXT, Mutator
from tests.core.formats import recordio_writer

from faceguide.cache.inspect.verify import verify
from faceguide.cache.manifest import failures, seal
from faceguide.cache.opening import opening_digest
from faceguide.cache.pairs.pair_lists import read_pairs
from faceguide.cache.reader import FaceCache
from faceguide.cache.schema import columns
from faceguide.core.commands.run_directory import begin_training
from faceguide.core.errors import FaceguideError
from faceguide.core.faces.decode import decode
from faceguide.core.files import json_bytes, read_json, write_json
from faceguide.core.formats import recordio, verification_bin
from faceguide.core.formats.container import metadata_of, sealed
from faceguide.core.formats.library_files import append_digest
from faceguide.evaluate.galleries import from_lists
from faceguide.evaluate.ijb import ijb_meta
from faceguide.evaluate.score.block_files import read_block, write_block
from faceguide.evaluate.score.face_store import FaceStore
from faceguide.evaluate.score.fusion import read_scales
from faceguide.preprocess.detect import landmark_index, landmark_text
from faceguide.preprocess.masks.mask_files import MaskSettings, read_mask
from faceguide.preprocess.masks.mask_finder import MaskFinder
from faceguide.preprocess.sources.image_sources import open_source
from faceguide.train.cli import main as train
from faceguide.train.models import create
from faceguide.train.models.loading.network import load_network
from faceguide.train.models.safetensors_file import write_weights
from faceguide.train.models.weights import load_weights, read_state
from faceguide.train.run.checkpoint import TrainingState, load_state, save_state
from faceguide.train.run.training_data import training_identities

KEY = "0" * 64


@dataclass(frozen=True)
class Parser:
    """One parser under attack.

    Attributes:
        name: of the parser, and of its folder in the corpus.
        seeds: makes what it needs in a folder and returns valid inputs.
        read: (folder, input) → reads the input; raises FaceguideError to refuse it.
        mutators: how inputs are made from valid ones.
    """

    name: str
    seeds: Callable[[Path], list[bytes]]
    read: Callable[[Path, bytes], object]
    mutators: Sequence[Mutator]

    def parse(self, folder: Path, data: bytes) -> str:
        """Whether the input was "read" or "refused"."""
        try:
            self.read(folder, data)
        except FaceguideError:
            return "refused"
        return "read"


def _picture(mode: str = "RGB", side: int = 24) -> Image.Image:
    ramp = np.add.outer(np.arange(side), np.arange(side)).astype(np.uint8) * 5
    colours = np.stack([ramp, ramp.T // 2, 255 - ramp], 2)
    return Image.fromarray(colours).convert(mode)


def _encoded(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    stream = io.BytesIO()
    _picture(mode).save(stream, kind, **options)
    return stream.getvalue()


def _images(folder: Path) -> list[bytes]:
    turned = Image.Exif()
    turned[0x0112] = 6
    return [
        _encoded("PNG"), _encoded("PNG", "P"), _encoded("PNG", "RGBA"), _encoded("PNG", "I;16"),
        _encoded("PNG", "1"), _encoded("JPEG"), _encoded("JPEG", "L"),
        _encoded("JPEG", progressive=True), _encoded("JPEG", exif=turned),
        _encoded("JPEG", "CMYK"), _encoded("BMP"), _encoded("WEBP"), _encoded("PPM"),
        _encoded("TIFF"), _encoded("TIFF", compression="tiff_lzw"), _encoded("TIFF", "F"),
        _encoded("TIFF", compression="jpeg"), _encoded("GIF", "P"),
    ]  # fmt: skip


def _records(folder: Path) -> list[bytes]:
    images = [_encoded("JPEG"), recordio_writer.MAGIC_BYTES * 2 + b"abcd", b""]
    records = [
        recordio_writer.record(image, label)
        for image, label in zip(images, (3.0, [1.0, 2.0], 5.0), strict=True)
    ]
    header = recordio_writer.record(b"", [4.0, 6.0])
    recordio_writer.write(folder / "a.rec", [header, *records])
    return [(folder / "a.rec").read_bytes(), b"".join(records)]


def _read_record(folder: Path, data: bytes, suffix: str) -> object:
    path = folder / "a.rec"
    path.with_suffix(suffix).write_bytes(data)
    source = open_source(path)
    for row, _ in zip(source.rows(), range(50), strict=False):
        with suppress(FaceguideError):
            source.read(row.key, row.at)
    return source.problems()


def _index(folder: Path) -> list[bytes]:
    _records(folder)
    return [(folder / "a.idx").read_bytes()]


def _scan(folder: Path, data: bytes) -> object:
    path = folder / "b.rec"
    path.write_bytes(data)
    return [
        recordio.read_record(path, entry.offset)
        for entry in recordio.entries(path)
        if not entry.fault
    ]


def _bins(folder: Path) -> list[bytes]:
    image = _encoded("JPEG")
    array = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    content = ([image, image, image, image], [True, False])
    return [
        *(pickle.dumps(content, protocol=protocol) for protocol in range(6)),
        pickle.dumps(([array] * 4, np.array([True, False])), protocol=4),
        pickle.dumps(([np.frombuffer(image, np.uint8)] * 2, [True]), protocol=2),
    ]


def _read_bin(folder: Path, data: bytes) -> object:
    path = folder / "a.bin"
    path.write_bytes(data)
    verification_bin._load.cache_clear()
    return verification_bin.load(path), verification_bin.read_pairs(path)


_PAIRS = {
    "csv": [
        b"fold,a,b,same\n0,x/1.jpg,x/2.jpg,1\n1,x/1.jpg,y/2.jpg,0\n",
        b"image_a,image_b,is_same\n\"x,1.jpg\",x/2.jpg,true\nx/1.jpg,y/2.jpg,False\n",
        b"a,a_num,b,b_num,same\nAnn,1,Ann,2,1\nAnn,1,Bob,3,0\n",
    ],
    "txt": [
        b"2\t1\nAnn\t1\t2\nAnn\t1\tBob\t1\nAnn\t2\t3\nBob\t1\tAnn\t2\n",
        b"1\nAnn 1 2\nAnn 1 Bob 1\n",
        b"x/1.jpg x/2.jpg 1\nx/1.jpg y/1.jpg 0\n",
        b"1 x/1.jpg x/2.jpg\n0 x/1.jpg y/1.jpg\n",
        b"x_1.jpg 1\nx_2.jpg 1\nx_1.jpg 0\ny_2.jpg 0\n",
    ],
}  # fmt: skip


def _read_pairs(folder: Path, data: bytes, suffix: str) -> object:
    path = folder / f"pairs.{suffix}"
    path.write_bytes(data)
    return read_pairs(path)


def _twins(folder: Path) -> list[bytes]:
    (folder / "id_to_images.json").write_text('{"1": ["1/a.png", "1/b.png"], "2": ["2/a.png"]}')
    return [b'{"train": [["1", "2"]], "val": [], "test": [[1, 2]]}']


def _read_twins(folder: Path, data: bytes) -> object:
    (folder / "twins.json").write_bytes(data)
    return read_pairs(folder / "twins.json", "train")


def _twin_images(folder: Path) -> list[bytes]:
    (folder / "twins.json").write_bytes(_twins(folder)[0])
    return [(folder / "id_to_images.json").read_bytes()]


def _read_twin_images(folder: Path, data: bytes) -> object:
    (folder / "id_to_images.json").write_bytes(data)
    return read_pairs(folder / "twins.json", "train")


_IJB = {
    "ijbc_face_tid_mid.txt": b"1.jpg 1 10\n2.jpg 1 11\n3.jpg 2 12\n",
    "ijbc_name_5pts_score.txt": b"".join(
        b"%d.jpg 30.5 51 65 51 48 71 33 92 62 92 0.99\n" % number for number in (1, 2, 3)
    ),
    "ijbc_template_pair_label.txt": b"1 2 0\n1 1 1\n",
    "ijbc_1N_gallery_G1.csv": b"TEMPLATE_ID,SUBJECT_ID\n1,7\n2,8\n",
}


def _ijb(name: str, folder: Path) -> list[bytes]:
    (folder / "meta").mkdir(exist_ok=True)
    for file, data in _IJB.items():
        (folder / "meta" / file).write_bytes(data)
    return [_IJB[name]]


def _read_ijb(name: str, folder: Path, data: bytes) -> object:
    (folder / "meta" / name).write_bytes(data)
    meta = ijb_meta.read_meta(folder)
    assert np.isfinite(meta.points).all()
    return ijb_meta.read_template_pairs(meta), ijb_meta.read_subjects(meta, "gallery_G1")


def _landmarks(suffix: str, folder: Path) -> list[bytes]:
    points = [f"{30 + number % 50}.25,{40 + number // 10}" for number in range(478)]
    if suffix == "txt":
        return ["".join(f"a/{i}.jpg {' '.join(points)}\n" for i in range(2)).encode()]
    names = ",".join(f"{axis}{number}" for number in range(1, 479) for axis in "xy")
    return [f"image_path,{names}\na.jpg,{','.join(points)}\n".encode()]


def _read_landmarks(suffix: str, folder: Path, data: bytes) -> object:
    path, database = folder / f"l.{suffix}", folder / "l.index"
    path.write_bytes(data)
    landmark_index.index_file(path, database)
    for key in ("a/0.jpg", "a.jpg", "b"):
        at = landmark_index.lookup(database, key)
        if at is not None:
            assert np.isfinite(landmark_text.read_at(path, at)[:, :2]).all()
    return None


def _manifests(folder: Path) -> list[bytes]:
    (folder / "x").mkdir(exist_ok=True)
    (folder / "x" / "1.png").write_bytes(_encoded("PNG"))
    return [b"path,identity,split\nx/1.png,Ann,train\n\"x/2,.png\",Bob,test\n"]  # fmt: skip


def _read_manifest(folder: Path, data: bytes) -> object:
    path = folder / "a.csv"
    path.write_bytes(data)
    source = open_source(path)
    for row, _ in zip(source.rows(), range(50), strict=False):
        with suppress(FaceguideError):
            assert len(source.read(row.key, row.at)) < 1 << 20
    return None


def _mask_table(folder: Path) -> list[bytes]:
    (folder / "m").mkdir(exist_ok=True)
    (folder / "m" / "1.png").write_bytes(_encoded("PNG", "L"))
    return [b"image,mask\nx/1.png,1.png\nx/2.png,2.png\n"]


def _read_mask_table(folder: Path, data: bytes) -> object:
    table = folder / "t.csv"
    table.write_bytes(data)
    finder = MaskFinder(folder / "m", table)
    for key in finder.table or ():
        with suppress(FaceguideError):
            finder.find(key)
    return list(finder.walk())


def _masks(folder: Path) -> list[bytes]:
    modes = ("1", "L", "P", "RGB", "RGBA", "LA", "I;16")
    return [
        *(_encoded("PNG", mode) for mode in modes), _encoded("TIFF", "F"), _encoded("JPEG", "L"),
        _encoded("BMP", "1"), _encoded("TIFF", "I"),
    ]  # fmt: skip


def _read_mask(folder: Path, data: bytes) -> object:
    path = folder / "m.png"
    path.write_bytes(data)
    for classes in ((), (1,), ((0, 128, 0),)):
        with suppress(FaceguideError):
            shares = read_mask(path, MaskSettings("visible", classes))
            assert shares.min() >= 0 <= shares.max() <= 1
    return None


def _cache(folder: Path, store: str = "raw") -> Path:
    if not (folder / "cache").is_dir():
        build(folder / "pristine", rows=6, shard_rows=6, size=8, store=store)
        shutil.copytree(folder / "pristine", folder / "cache")
    return folder / "cache"


def _shards(group: str, folder: Path) -> list[bytes]:
    name = "faces" if group == "jpeg" else group
    path = _cache(folder, "jpeg" if group == "jpeg" else "raw") / f"{name}-00000.h5"
    return [path.read_bytes()]


def _read_shard(group: str, folder: Path, data: bytes) -> object:
    directory = folder / "cache"
    name = "faces" if group == "jpeg" else group
    file = directory / f"{name}-00000.h5"
    file.write_bytes(data)
    path = directory / f"manifest-{name}.json"
    manifest = read_json(folder / "pristine" / path.name)
    shard = manifest["shards"][0]
    # As a forger would: the manifest says that the file has always been so.
    shard["bytes"], shard["sha256"] = len(data), hashlib.sha256(data).hexdigest()
    with suppress(ValueError, OSError), file.open("rb") as opened:  # it may be too short
        specs = columns(name, manifest["recipe"])
        shard["opening"] = opening_digest(opened.fileno(), shard["offsets"], specs, shard["rows"])
    write_json(path, manifest)
    problems = [str(problem) for problem in verify(directory)[0]]
    cache = FaceCache.open(directory)
    rows = np.arange(6)
    for check in (True, False):
        for column in cache.columns:
            with suppress(FaceguideError):
                cache.read(rows, [column], check)
    for text in ("key", "meta/split"):
        with suppress(FaceguideError):
            cache.texts(text, rows)
    return problems, cache.texts("key", rows)


_JSONS = ("plan.json", "manifest-faces.json", "manifest-guidance.json", "recipe-guidance.json",
          "faces-00000.json", "occlusion-00000.json")  # fmt: skip


def _json(name: str, folder: Path) -> list[bytes]:
    return [(_cache(folder) / name).read_bytes()]


def _read_cache(name: str, folder: Path, data: bytes) -> object:
    directory = folder / "cache"
    for other in (folder / "pristine").glob("*.json"):
        shutil.copy(other, directory)
    (directory / name).write_bytes(data)
    with suppress(FaceguideError):
        cache = FaceCache.open(directory)
        rows = np.arange(min(len(cache), 6))
        cache.read(rows, cache.columns)
        cache.texts("key", rows)
        cache.identities.count("")
    with suppress(FaceguideError):
        list(failures(directory))
    with suppress(FaceguideError):
        seal(directory, "faces")
    return verify(directory)


def _checkpoints(folder: Path) -> list[bytes]:
    out = []
    torch.manual_seed(0)
    weights = create("occlusion_head", channels=8).state_dict()
    floats = {key: value for key, value in weights.items() if value.is_floating_point()}
    for content in (
        weights,
        {"state_dict": {f"model.{key}": value for key, value in weights.items()}, "epoch": 3,
         "hyper_parameters": {"lr": 0.1}, "callbacks": [complex(1, 2), range(3)]},
        {"model": {f"module.{key}": torch.nn.Parameter(value) for key, value in floats.items()}},
    ):  # fmt: skip
        for zipped in (True, False):
            stream = io.BytesIO()
            torch.save(content, stream, _use_new_zipfile_serialization=zipped)
            out.append(stream.getvalue())
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(out[0])) as old, zipfile.ZipFile(stream, "w") as packed:
        for entry in old.infolist():
            undated = zipfile.ZipInfo(entry.filename)
            packed.writestr(undated, old.read(entry), zipfile.ZIP_DEFLATED)
    return [*out, stream.getvalue()]


def _read_checkpoint(suffix: str, folder: Path, data: bytes) -> object:
    path = folder / f"w{suffix}"
    path.write_bytes(data)
    state = read_state(path)
    return load_weights(create("occlusion_head", channels=8), path), state


def _safetensors(folder: Path) -> list[bytes]:
    from safetensors.torch import save

    torch.manual_seed(0)
    state = create("occlusion_head", channels=8).state_dict()
    weights = {key: value.contiguous() for key, value in state.items()}
    write_weights(folder / "ours", weights, "x", {})
    return [save(weights, {"arch": "x"}), (folder / "ours").read_bytes()]


def _states(folder: Path) -> list[bytes]:
    torch.manual_seed(0)
    module = create("occlusion_head", channels=8)
    optimiser = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)
    state = TrainingState(
        1, 0.5, False, module.state_dict(), optimiser.state_dict(), {},
        {"epoch": 0, "batch": 1}, KEY,
    )  # fmt: skip
    save_state(folder / "last.pt", state)
    whole = (folder / "last.pt").read_bytes()
    return [whole[:-83]]


def _read_state(folder: Path, data: bytes) -> object:
    path = folder / "last.pt"
    path.write_bytes(data)
    append_digest(path)  # as an attacker would
    return load_state(path, KEY)


def _runs(folder: Path) -> list[bytes]:
    options = {
        "seed": 0,
        "heads": 8,
        "guides": [["loss", 0.3]],
        "views": True,
        "init": "w.pt",
        "assignment": [3, 2, 1],
        "rate": 0.1,
    }
    begin_training(folder / "run", "train cal", options, fixed={}, argv=["x"],
              inputs={"init": {"w.pt": "a"}},
              models={"backbone": {"name": "mobilefacenet", "weights": "b.pt",
                                   "arguments": {"embedding_size": 128}},
                      "occlusion_head": {"name": "occlusion_head", "weights": "o.pt",
                                         "arguments": {"channels": 8}}},
              map=7, identities="identities.txt", cache="cache")  # fmt: skip
    (folder / "run" / "identities.txt").write_text("Ann\nBob\n")
    torch.manual_seed(0)
    torch.save(create("occlusion_head", channels=8).state_dict(), folder / "run" / "o.pt")
    record = read_json(folder / "run" / "run.json")
    return [json_bytes(record), json.dumps({"models": record["models"], "map": 7}).encode()]


def _read_run(folder: Path, data: bytes) -> object:
    path = folder / "run" / "run.json"
    path.write_bytes(data)
    with suppress(FaceguideError):
        training_identities(path.parent)
    with suppress(FaceguideError):
        load_network(None, path.parent)
    with suppress(click.ClickException):
        command = train.commands["cal"]
        command.make_context("cal", ["--from", str(path), "--out", str(folder / "out")])
    return None


def _blocks(folder: Path) -> list[bytes]:
    directory = folder / "embeddings"
    directory.mkdir(exist_ok=True)
    arrays = {"embedding": np.ones((5, 4), np.float32), "norm": np.ones(5, np.float32)}
    FaceStore(directory).add("embedding", np.arange(5), arrays)
    (path,) = directory.glob("embedding/*.safetensors")
    write_block(folder / "t.safetensors", "k", {"maps": np.ones((2, 7, 7), np.float32)})
    return [path.read_bytes(), (folder / "t.safetensors").read_bytes()]


def _read_block(folder: Path, data: bytes) -> object:
    with suppress(ValueError, AttributeError, RecursionError):  # as an attacker would
        data = b"".join(map(bytes, sealed(data, metadata_of(data))))
    (path,) = (folder / "embeddings").glob("embedding/*.safetensors")
    for place in (path, folder / "t.safetensors"):
        place.write_bytes(data)
    with suppress(FaceguideError):
        store = FaceStore(folder / "embeddings")
        store.read("embedding", store.rows("embedding"))
    return read_block(folder / "t.safetensors", "k")


def _scales(folder: Path) -> list[bytes]:
    return [json_bytes({"scales": {"cosine": {"mean": 0.1, "std": 0.2}}, "weights": {"cosine": 1}})]


def _read_scales(folder: Path, data: bytes) -> object:
    (folder / "fusion.json").write_bytes(data)
    return read_scales(folder / "fusion.json", ["cosine"])


def _galleries(folder: Path) -> list[bytes]:
    keys = FaceCache.open(_cache(folder)).texts("key", np.arange(6))
    (folder / "probes.csv").write_text("key\n" + "\n".join(keys[3:]))
    return ["\n".join(["key,identity", *(f"{key},A" for key in keys[:3])]).encode()]


def _read_gallery(folder: Path, data: bytes) -> object:
    (folder / "gallery.csv").write_bytes(data)
    return from_lists(
        FaceCache.open(folder / "cache"), folder / "gallery.csv", folder / "probes.csv"
    )


def _lines(name: str, folder: Path) -> list[bytes]:
    return [(_cache(folder) / name).read_bytes()]


ALL = (
    Parser("images", _images, lambda folder, data: decode(data), BYTES),
    Parser("rec", _records, lambda folder, data: _read_record(folder, data, ".rec"), BYTES),
    Parser("rec without idx", _records, _scan, BYTES),
    Parser("idx", _index, lambda folder, data: _read_record(folder, data, ".idx"), TEXT),
    Parser("bin", _bins, _read_bin, BYTES),
    *(
        Parser(
            f"pairs {suffix}",
            lambda folder, suffix=suffix: _PAIRS[suffix],
            functools.partial(
                lambda suffix, folder, data: _read_pairs(folder, data, suffix), suffix
            ),
            TEXT,
        )
        for suffix in _PAIRS
    ),
    Parser("pairs of twins", _twins, _read_twins, JSON),
    Parser("images of twins", _twin_images, _read_twin_images, JSON),
    *(
        Parser(name, functools.partial(_ijb, name), functools.partial(_read_ijb, name), TEXT)
        for name in _IJB
    ),
    *(
        Parser(
            f"landmarks {suffix}",
            functools.partial(_landmarks, suffix),
            functools.partial(_read_landmarks, suffix),
            TEXT,
        )
        for suffix in ("txt", "csv")
    ),
    Parser("csv source", _manifests, _read_manifest, TEXT),
    Parser("mask table", _mask_table, _read_mask_table, TEXT),
    Parser("masks", _masks, _read_mask, BYTES),
    *(
        Parser(
            f"shard {group}",
            functools.partial(_shards, group),
            functools.partial(_read_shard, group),
            BYTES,
        )
        for group in ("faces", "guidance", "occlusion", "jpeg")
    ),
    *(
        Parser(name, functools.partial(_json, name), functools.partial(_read_cache, name), JSON)
        for name in _JSONS
    ),
    *(
        Parser(name, functools.partial(_lines, name), functools.partial(_read_cache, name), TEXT)
        for name in ("sources/00000.jsonl", "identities.txt")
    ),
    Parser("pt", _checkpoints, functools.partial(_read_checkpoint, ".pt"), BYTES),
    Parser("safetensors", _safetensors, functools.partial(_read_checkpoint, ".safetensors"), BYTES),
    Parser("last.pt", _states, _read_state, BYTES),
    Parser("run.json", _runs, _read_run, JSON),
    Parser("blocks", _blocks, _read_block, BYTES),
    Parser("fusion.json", _scales, _read_scales, JSON),
    Parser("gallery", _galleries, _read_gallery, TEXT),
)
PARSERS = {parser.name: parser for parser in ALL}
