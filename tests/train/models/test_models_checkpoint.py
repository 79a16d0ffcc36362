"""Weights files: read without running anything, fitted by name and shape, exported whole."""

from __future__ import annotations

import os
import pickle
import sys
import types
from pathlib import Path

import pytest
import torch
from tests.train.models.parity_fill import fill
from torch import Tensor

from faceguide.train.models import CheckpointError, create
from faceguide.train.models.input_spec import InputSpec
from faceguide.train.models.safetensors_file import read_safetensors, write_weights
from faceguide.train.models.weights import load_matching, load_weights, read_state


class Trap:
    """Unpickling it with a plain reader would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, (f"touch {self.path}",))


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module with classes such as training frameworks put into checkpoints."""
    module = types.ModuleType("foreign_trainer")
    exec(
        "import collections\n"
        "class Settings(dict): pass\n"
        "class Items(list): pass\n"
        "class Callback:\n"
        "    def __init__(self): self.best = 1.0\n"
        "class Slots:\n"
        "    __slots__ = ('a',)\n"
        "    def __init__(self): self.a = 2\n",
        module.__dict__,
    )
    for name in ("Settings", "Items", "Callback", "Slots"):
        getattr(module, name).__module__ = "foreign_trainer"
    monkeypatch.setitem(sys.modules, "foreign_trainer", module)
    return module


def lightning(backbone: torch.nn.Module, head: torch.nn.Module) -> dict[str, Tensor]:
    state = {f"model.{key}": value for key, value in backbone.state_dict().items()}
    return state | {f"head.{key}": value for key, value in head.state_dict().items()}


@pytest.fixture(scope="module")
def backbone() -> torch.nn.Module:
    made = create("mobilefacenet").eval()
    fill(made)
    return made


def test_a_bare_state_dict(tmp_path: Path, backbone: torch.nn.Module) -> None:
    torch.save(backbone.state_dict(), tmp_path / "bare.pt")
    other = create("mobilefacenet")
    report = load_weights(other, tmp_path / "bare.pt")
    assert report.summary() == f"{tmp_path / 'bare.pt'}: 307 tensors loaded"
    for key, value in other.state_dict().items():
        assert torch.equal(value, backbone.state_dict()[key]), key


def test_a_lightning_checkpoint_with_classes_that_are_not_here(
    tmp_path: Path, backbone: torch.nn.Module, foreign: types.ModuleType
) -> None:
    head = create("adaface", num_classes=4, embedding_size=128)
    head.batch_mean.fill_(17.0)
    path = tmp_path / "adaface.ckpt"
    payload = {
        "state_dict": lightning(backbone, head),
        "hyper_parameters": foreign.Settings(lr=0.1),
        "callbacks": {foreign.Callback: foreign.Callback(), "slots": foreign.Slots()},
        "items": foreign.Items([1, 2]),
        "optimizer_states": [{"state": {0: torch.ones(2)}}],
    }
    torch.save(payload, path)
    del sys.modules["foreign_trainer"]
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)  # the case is real
    fresh, fresh_head = (
        create("mobilefacenet"),
        create("adaface", num_classes=4, embedding_size=128),
    )
    report = load_weights(fresh, path)
    assert (report.loaded, report.missing, report.unexpected) == (307, (), ())
    assert torch.equal(fresh.bn.running_var, backbone.bn.running_var)
    assert load_weights(fresh_head, path).loaded == 4
    assert torch.equal(fresh_head.kernel, head.kernel)
    assert fresh_head.batch_mean.item() == 17.0
    assert "foreign_trainer" not in sys.modules


def test_no_code_of_a_file_runs(tmp_path: Path, backbone: torch.nn.Module) -> None:
    sign = tmp_path / "it-ran"
    path = tmp_path / "trap.ckpt"
    torch.save({"state_dict": backbone.state_dict(), "callbacks": Trap(sign)}, path)
    assert len(read_state(path)) == 307
    assert not sign.exists()
    bare = tmp_path / "trap.pkl"
    bare.write_bytes(pickle.dumps(Trap(sign), protocol=2))
    with pytest.raises(CheckpointError, match=r"expected weights written by torch\.save"):
        read_state(bare)
    assert not sign.exists()
    torch.load(path, weights_only=False)  # the trap is real
    assert sign.exists()


@pytest.mark.parametrize("prefix", ["module.", "model.", "module.model."])
@pytest.mark.parametrize("key", ["state_dict", "model", None])
def test_prefixes_and_places(tmp_path: Path, prefix: str, key: str | None) -> None:
    state = {f"{prefix}fc.weight": torch.ones(2), f"{prefix}body.model.a": torch.zeros(1)}
    torch.save(state if key is None else {key: state, "epoch": 3}, tmp_path / "x.pt")
    assert set(read_state(tmp_path / "x.pt")) == {"fc.weight", "body.model.a"}


def test_another_number_of_classes_drops_the_head_in_one_line() -> None:
    source = create("adaface", num_classes=6, embedding_size=8).state_dict()
    head = create("adaface", num_classes=4, embedding_size=8)
    before = head.kernel.detach().clone()
    report = load_matching(head, source, "a.ckpt")
    assert "kernel dropped: (8, 6) in the file, (8, 4) here" in report.summary()
    assert report.missing == report.unexpected == ()
    assert torch.equal(head.kernel, before)


def test_another_architecture_is_an_error_and_changes_nothing() -> None:
    source, target = create("ir_18").state_dict(), create("ir_34")
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"body\.2\..* in ir\.ckpt .* IR"):
        load_matching(target, source, "ir.ckpt")
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())
    with pytest.raises(CheckpointError, match=r"w\.pt .*MobileFaceNet"):
        load_matching(create("mobilefacenet"), {"a.b": torch.ones(1)}, "w.pt")


def test_what_did_not_match_is_listed() -> None:
    head = create("occlusion_head", channels=4)
    state = {"conv1.weight": torch.ones_like(head.conv1.weight)}
    state |= {f"extra.{n}": torch.ones(1) for n in range(5)}
    report = load_matching(head, state, "f.pt")
    assert report.unexpected == tuple(f"extra.{n}" for n in range(5))
    assert report.missing == (
        "bn1.weight",
        "bn1.bias",
        "bn1.running_mean",
        "bn1.running_var",
        "conv2.weight",
        "conv2.bias",
    )
    for words in ("f.pt: 1 ", "6 not in the file (bn1.weight, ", "5 not used (extra.0, "):
        assert words in report.summary()
    assert "extra.3" not in report.summary()  # a line, not a list


@pytest.mark.parametrize("kind", ["absent", "folder", "text", "cut", "empty", "no tensors", "list"])
def test_unreadable_files_give_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "weights.pt"
    expected = {
        "absent": "no weights file",
        "folder": "found the folder",
        "text": r"expected weights written by torch\.save",
        "cut": r"expected weights written by torch\.save",
        "empty": r"expected weights written by torch\.save",
        "no tensors": "found no named tensors",
        "list": "found no named tensors",
    }[kind]
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    elif kind == "empty":
        path.touch()
    elif kind == "no tensors":
        torch.save({"state_dict": {"epoch": 3}}, path)
    elif kind == "list":
        torch.save([torch.ones(2)], path)
    elif kind == "cut":
        torch.save({"a": torch.ones(500)}, path)
        path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(CheckpointError, match=expected) as caught:
        read_state(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_exported_weights_say_what_builds_and_feeds_them(
    tmp_path: Path, backbone: torch.nn.Module
) -> None:
    path = tmp_path / "backbone.safetensors"
    spec = InputSpec(112, "RGB", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    weights = backbone.state_dict()
    write_weights(path, weights, "mobilefacenet", {"embedding_size": 128}, spec, step=7)
    assert [p.name for p in tmp_path.iterdir()] == ["backbone.safetensors"]
    tensors, about = read_safetensors(path)
    assert about == {
        "arch": "mobilefacenet",
        "arguments": '{"embedding_size": 128}',
        "input_size": "112",
        "colour": "RGB",
        "mean": "[0.485, 0.456, 0.406]",
        "std": "[0.229, 0.224, 0.225]",
        "step": "7",
    }
    assert all(torch.equal(tensors[name], value) for name, value in weights.items())
    assert load_weights(create("mobilefacenet"), path).missing == ()
    write_weights(tmp_path / "again", weights, "mobilefacenet", {"embedding_size": 128}, spec, 7)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_exported_weights_that_were_changed_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    write_weights(path, {"weight": torch.arange(6.0)}, "occlusion_head", {"channels": 8})
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(CheckpointError, match=r"changed since it was written|cannot read"):
            read_safetensors(path)
