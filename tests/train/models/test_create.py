"""Models by name."""

from __future__ import annotations

import pytest
import torch

from faceguide.train.models import MODELS, ModelError, create
from faceguide.train.models.matchers.qaconv import QAConv

NEEDS_CLASSES = ("adaface", "arcface", "cosface", "cal_")


@pytest.mark.parametrize("name", MODELS)
def test_every_name_builds_a_module(name: str) -> None:
    arguments = {"num_classes": 3} if name.startswith(NEEDS_CLASSES) else {}
    if name == "vit":
        arguments = {"width": 24, "depth": 2, "heads": 3}
    with torch.device("meta"):
        model = create(name, **arguments)
    assert isinstance(model, torch.nn.Module)
    assert model.training


def test_an_unknown_name_lists_the_legal_ones() -> None:
    with pytest.raises(ModelError, match=r"'ir_42'; .*mobilefacenet, ir_18, "):
        create("ir_42")


def test_an_unknown_argument_lists_the_legal_ones() -> None:
    with pytest.raises(ModelError, match=r"qaconv: .*'chanels'; .*channels, height"):
        create("qaconv", chanels=3)
    with pytest.raises(ModelError, match=r"adaface: .*'num_classes'; its arguments are: num_clas"):
        create("adaface")


def test_the_arguments_of_the_contract() -> None:
    assert QAConv(512, 7, 7).channels == 512, "the size comes first"
    matcher = create("qaconv", version="2.0", channels=8, height=3, width=4)
    assert matcher.fc.weight.shape == (1, 24)
    head = create(
        "adaface",
        num_classes=5,
        embedding_size=16,
        margin=0.4,
        h=0.333,
        scale=64.0,
        t_alpha=0.01,
    )
    assert head.kernel.shape == (16, 5)
    assert create("cal_resnet18", num_classes=7, heads=4).fc.weight.shape == (7, 4 * 512)
    for wrong, found in (({"version": "1.0"}, "'1.0'"), ({"weighting": "half"}, "'half'")):
        with pytest.raises(ModelError, match=f"found {found}"):
            create("qaconv", **wrong)
    with pytest.raises(ModelError, match="at least 1, found 0 and 512"):
        create("arcface", num_classes=0)
