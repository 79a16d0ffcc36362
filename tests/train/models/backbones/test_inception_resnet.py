"""FaceNet's network: layout of the published weights, shapes, and loading."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.train.models.parity_fill import fill, load_case, relative_error, sample, smooth_images

from faceguide.core.errors import ModelError
from faceguide.train.models.backbones.inception_resnet import InceptionResnetV1
from faceguide.train.models.weights import load_weights

CASE = "facenet_inception_resnet_v1"


@pytest.fixture(scope="module")
def network() -> InceptionResnetV1:
    torch.manual_seed(0)
    return InceptionResnetV1().eval()


def test_every_key_and_shape_is_that_of_facenet_pytorch(network: InceptionResnetV1) -> None:
    """The list was written by facenet-pytorch 2.6.0 itself, in its own order."""
    found = [
        f"{key} {'×'.join(map(str, value.shape))}" for key, value in network.state_dict().items()
    ]
    assert found == [line.decode() for line in load_case(CASE)["layout"]]
    assert sum(p.numel() for p in network.parameters()) == 23_482_624


def test_equal_weights_give_the_embedding_of_facenet_pytorch() -> None:
    case = load_case(CASE)
    model = InceptionResnetV1().eval()
    fill(model)
    for key, value in model.state_dict().items():
        if key.endswith("bn.weight"):
            value.mul_(3)  # drawn scales shrink all signals, and blocks would hardly count
    seen: dict[str, torch.Tensor] = {}
    for name in ("repeat_1", "repeat_2", "block8"):
        model.get_submodule(name).register_forward_hook(
            lambda m, i, output, name=name: seen.update({name: output})
        )
    with torch.inference_mode():
        embedding, norm, last = model.forward_all(smooth_images((2, 3, 160, 160)))
        tail = model.linear_tail()
        found = torch.einsum("ncs,sce->ne", last.flatten(2), tail.weight) + tail.bias
    for name, output in seen.items():
        assert relative_error(sample(output, case[name]), case[name]) < 1e-5, name
    assert relative_error(embedding, case["embedding"]) < 1e-5
    assert relative_error(found, (embedding * norm).numpy()) < 2e-5, "the sum of cells"
    for side, name in ((17, "repeat_1"), (8, "repeat_2"), (3, "block8")):
        assert tuple(seen[name].shape[1:]) == (model.map_channels[side], side, side)


def test_other_sides_are_refused(network: InceptionResnetV1) -> None:
    with pytest.raises(ModelError, match=r"expects images of \(N, 3, 160, 160\), found .* resize"):
        network(torch.zeros(1, 3, 112, 112))


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
