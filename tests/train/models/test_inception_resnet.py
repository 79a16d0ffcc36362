"""FaceNet's network: layout of the published weights, shapes, and loading."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from faceguide.train.models.checkpoint import load_weights
from faceguide.train.models.inception_resnet import InceptionResnetV1


@pytest.fixture(scope="module")
def network() -> InceptionResnetV1:
    torch.manual_seed(0)
    return InceptionResnetV1().eval()


def test_parameters_as_published(network: InceptionResnetV1) -> None:
    assert sum(p.numel() for p in network.parameters()) == 23_482_624


def test_keys_as_published(network: InceptionResnetV1) -> None:
    """One key of every kind of block, with its shape in the published files."""
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    expected = {
        "conv2d_1a.conv.weight": (32, 3, 3, 3),
        "conv2d_4b.bn.running_var": (256,),
        "repeat_1.4.branch2.2.conv.weight": (32, 32, 3, 3),
        "repeat_1.0.conv2d.bias": (256,),
        "mixed_6a.branch0.conv.weight": (384, 256, 3, 3),
        "mixed_6a.branch1.2.conv.weight": (256, 192, 3, 3),
        "repeat_2.9.branch1.1.conv.weight": (128, 128, 1, 7),
        "repeat_2.9.branch1.2.conv.weight": (128, 128, 7, 1),
        "repeat_2.0.conv2d.weight": (896, 256, 1, 1),
        "mixed_7a.branch2.2.conv.weight": (256, 256, 3, 3),
        "repeat_3.4.branch1.1.conv.weight": (192, 192, 1, 3),
        "block8.conv2d.weight": (1792, 384, 1, 1),
        "last_linear.weight": (512, 1792),
        "last_bn.running_mean": (512,),
    }
    for key, shape in expected.items():
        assert shapes[key] == shape, key
    assert not any(key.startswith(("logits", "dropout", "mixed_6a.branch2")) for key in shapes)


def test_forward_and_map_sizes(network: InceptionResnetV1) -> None:
    sides = {}
    for name in ("repeat_1", "repeat_2", "block8"):
        module = network.get_submodule(name)
        module.register_forward_hook(lambda m, i, o, name=name: sides.update({name: o.shape[-1]}))
    with torch.no_grad():
        embedding, norm = network(torch.randn(2, 3, 160, 160))
        raw = network.raw_embedding(torch.zeros(1, 3, 160, 160))
    assert embedding.shape == (2, 512)
    assert norm.shape == (2, 1)
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2))
    assert sides == {"repeat_1": 17, "repeat_2": 8, "block8": 3}
    assert raw.shape == (1, 512)


def test_published_files_load_without_their_classifier(
    network: InceptionResnetV1, tmp_path: Path
) -> None:
    state = dict(network.state_dict())
    state["logits.weight"], state["logits.bias"] = torch.zeros(8631, 512), torch.zeros(8631)
    torch.save(state, tmp_path / "vggface2.pt")
    other = InceptionResnetV1()
    report = load_weights(other, tmp_path / "vggface2.pt")
    assert report.missing == ()
    assert report.unexpected == ()
    assert torch.equal(other.last_linear.weight, network.last_linear.weight)


def test_pixels_are_fixed_image_standardisation(network: InceptionResnetV1) -> None:
    image = torch.tensor([0, 127, 255], dtype=torch.uint8).expand(1, 1, 1, 3)
    found = network.input_spec.prepare(image).flatten()
    torch.testing.assert_close(found, (torch.tensor([0.0, 127, 255]) - 127.5) / 128)
