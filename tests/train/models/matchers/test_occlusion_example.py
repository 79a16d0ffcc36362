"""The worked example of docs/occlusion.md is what the matcher computes."""

from __future__ import annotations

import pytest
import torch
from tests.conftest import REPOSITORY

from faceguide.train.models import create

# Rows: cells of the probe, whose lower two are covered; columns: cells of the gallery face.
CORRELATION = torch.tensor(
    [
        [0.8, 0.1, -0.3, -0.2],
        [0.2, 0.7, -0.1, -0.4],
        [-0.2, -0.3, -0.1, -0.5],
        [-0.2, -0.1, -0.3, 0.9],
    ]
)
EXPECTED = {"none": 1.15, "scale": 0.75, "mask": 1.05, "common": 1.50}


def maps() -> tuple[torch.Tensor, torch.Tensor]:
    """Unit vectors whose products are CORRELATION: the gallery's are axes of space."""
    rest = (1 - CORRELATION.square().sum(1, keepdim=True)).sqrt()
    probe = torch.cat([CORRELATION, rest], 1)  # (4 cells, 5)
    gallery = torch.eye(4, 5)
    return probe.T.reshape(1, 5, 2, 2), gallery.T.reshape(1, 5, 2, 2)


@pytest.mark.parametrize("weighting", EXPECTED)
def test_scores_of_the_page(weighting: str) -> None:
    matcher = create("qaconv", channels=5, height=2, width=2, weighting=weighting).eval()
    torch.nn.init.zeros_(matcher.fc.bias)
    probe, gallery = maps()
    seen = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    with torch.no_grad():
        score = matcher(probe, gallery, seen, torch.ones(1, 2, 2)).item()
    assert score == pytest.approx(EXPECTED[weighting], abs=2e-4)
    page = (REPOSITORY / "docs" / "occlusion.md").read_text("utf-8")
    assert f"| `{weighting}` |" in page
    (line,) = [text for text in page.splitlines() if text.startswith(f"| `{weighting}` |")]
    assert f" {EXPECTED[weighting]:.2f} |" in line
