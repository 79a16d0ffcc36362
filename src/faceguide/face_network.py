"""A network on faces: embeddings, scores, visibility and attention of whatever shows one."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from faceguide.core.errors import EvaluationError
from faceguide.core.faces.align import five_points
from faceguide.evaluate.calibrate.calibration_file import read_calibration
from faceguide.evaluate.score import fusion
from faceguide.evaluate.score.embed import Beside, describe_crops
from faceguide.evaluate.score.face_reader import (
    HeldFaces,
    groups_for,
    score_pairs,
    visible_mean_map,
)
from faceguide.evaluate.score.matcher_options import FUSIONS, VISIBLE, Hidden
from faceguide.evaluate.score.scores import (
    EMBEDDING,
    MAP,
    VISIBILITY,
    Faces,
    Matcher,
    calibrated,
    make_matcher,
    needs_mean_map,
)
from faceguide.face import Face, faces_of, is_single
from faceguide.train.models.cal_network import WSDANCAL
from faceguide.train.models.input_spec import InputSpec
from faceguide.train.models.loading.network import Network, load_network, on_device
from faceguide.train.models.own_check import TRIED, check_own

_BATCH = 16


def load(
    weights: str | os.PathLike[str],
    backbone: str | None = None,
    *,
    device: str = "auto",
    colour: str | None = None,
    heads: int | None = None,
    onnx_output: str | None = None,
) -> FaceNetwork:
    """A network out of a weights file, a downloaded folder or a training run's directory.

    Args:
        weights: the file or the directory.
        backbone: its command-line name, which is checked, or `module:function` for a network of
            your own; None where the file or the run says.
        device: "auto", "cpu", "cuda" or "cuda:N".
        colour: "RGB" or "BGR", the order of the channels that the weights were trained on; None
            as the file or the network says.
        heads: of a vision transformer of a shape that is not known.
        onnx_output: of an ONNX file, the result that is the embedding; None where there is one.

    Raises:
        FaceguideError: when the file cannot be read or does not hold the whole network.

    Warns:
        UserWarning: for what is doubtful about the weights.
    """
    network = load_network(backbone, Path(weights), on_device(device), colour, heads, onnx_output)
    for line in network.doubts.lines():
        warnings.warn(line, stacklevel=2)
    return FaceNetwork(network)


class FaceNetwork:
    """A loaded network.

    Wherever faces are asked for, it takes a file name, a Pillow picture, uint8 RGB pixels, a
    `Face` of `align`, a row or a batch of a cache, or a list of them. Pixels (H, W, 3) of exactly
    `input_spec.size` are a crop; all other pictures and every file are photographs, and aligned.

    Args:
        network: as the `evaluate` commands use it.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self._untried = network.is_foreign

    @property
    def module(self) -> nn.Module:
        """The network itself, in eval mode, on pixels that `input_spec.prepare` makes."""
        return self.network.backbone

    @property
    def input_spec(self) -> InputSpec:
        """The pixels that it was trained on."""
        return self.network.input_spec

    def __repr__(self) -> str:
        side, colour = self.input_spec.size, self.input_spec.colour
        return f"FaceNetwork({self.network.name!r}, {side} pixels, {colour})"

    def embed(self, faces: Any) -> NDArray[np.float32]:
        """(N, E) embeddings of length 1 as `evaluate embed` keeps them; one face gives (1, E).

        Each is of the image and its mirror image together.
        """
        return self._described(self._faces(faces), frozenset({"embedding"}))["embedding"]

    def visibility(self, faces: Any) -> NDArray[np.float32]:
        """(N, g, g) how much of each cell can be seen, 1 = visible, 0 = occluded.

        As the occlusion head sees it; without one, as the faces know it themselves.

        Raises:
            FaceguideError: when neither knows.
        """
        found = self._faces(faces)
        if self.network.occlusion_head is None:
            return _own_visibility(found)
        groups = frozenset({"visibility"})
        return self._described(found, groups)["visibility"].astype(np.float32)

    @torch.inference_mode()
    def attention(self, faces: Any) -> NDArray[np.float32]:
        """(N, M, h, w) CAL's attention maps, one per head, 0 or above.

        Raises:
            FaceguideError: for a network without attention maps.
        """
        model = self.network.backbone
        if not isinstance(model, WSDANCAL):
            raise EvaluationError(
                f"{self.network.name} has no attention maps; those of `train cal` have"
            )
        crops = np.stack(self._crops(self._faces(faces)))
        device = next(model.parameters()).device
        parts = [
            model(self.input_spec.prepare(torch.from_numpy(batch).to(device)), parts=True).maps
            for batch in np.split(crops, range(_BATCH, len(crops), _BATCH))
        ]
        return torch.cat(parts).float().cpu().numpy()

    def score(
        self,
        face: Any,
        other: Any,
        matcher: str = "cosine",
        *,
        mean_of: Any = None,
        fusion_scales: str | os.PathLike[str] | None = None,
        calibration: str | os.PathLike[str] | None = None,
        hidden: Hidden = "zero",
    ) -> float | NDArray[np.float32]:
        """How alike are two faces? Higher is more alike.

        Args:
            face: one face, or N.
            other: one face, or N; one is compared with each of the others.
            matcher: as `evaluate verification --matcher` takes it.
            mean_of: for `visible-embedding`: faces whose mean map is taken off, as `evaluate
                verification` does with the faces of its list; None compares them as they are.
            fusion_scales: for a fusion: the fusion.json of an earlier run.
            calibration: file of `evaluate calibrate`: scores become log-likelihood ratios, 0 =
                tells nothing. It has its own mean map; leave out `mean_of`.
            hidden: for `visible-embedding`: "zero", occluded cells do not count; "drop", a vision
                transformer does not see them either: of faces that know what they show.

        Returns:
            A number for two faces, (N,) where either is several.

        Raises:
            FaceguideError: when the network or the faces lack what the matcher needs.
        """
        first, second = self._faces(face), self._faces(other)
        if len(first) != len(second) and 1 not in (len(first), len(second)):
            raise EvaluationError(
                f"{len(first)} and {len(second)} faces are no pairs; give as many of either, or one"
            )
        common = [] if mean_of is None else self._faces(mean_of)
        weights, scales = _parts(matcher, fusion_scales)
        if hidden == "drop" and VISIBLE not in weights:
            raise EvaluationError(f"hidden='drop' is for {VISIBLE}; leave it out for {matcher}")
        parts = {name: make_matcher(name, self.network) for name in weights}
        if calibration is not None:
            if common:
                raise EvaluationError("the calibration has its own mean map; leave out mean_of")
            parts = {matcher: self._calibrated(matcher, Path(calibration), hidden)}
        needs = frozenset[str]().union(*(part.needs for part in parts.values()))
        reader = HeldFaces(self._held([*first, *second, *common], needs, hidden))
        place = np.arange(len(first) + len(second) + len(common))
        for name in parts:
            if common and needs_mean_map(name):
                mean = visible_mean_map(reader, place[len(first) + len(second) :])
                parts[name] = make_matcher(name, self.network, mean)
        chosen: Matcher = fusion.fuse(parts, weights, scales) if scales else parts[matcher]
        pairs = max(len(first), len(second))
        probe = np.broadcast_to(place[: len(first)], pairs)
        reference = np.broadcast_to(place[len(first) :][: len(second)], pairs)
        found = score_pairs(reader, chosen, probe.copy(), reference.copy())
        return float(found[0]) if is_single(face) and is_single(other) else found

    def _calibrated(self, matcher: str, path: Path, hidden: Hidden) -> Matcher:
        found = read_calibration(path, matcher)
        head = self.network.occlusion_head is not None and hidden == "zero"
        network = replace(self.network, hidden=hidden)
        for line in found.doubts(path, network, "head" if head else "cache", True).lines():
            warnings.warn(line, stacklevel=3)
        return calibrated(matcher, self.network, found.rule)

    def one(self, face: Any) -> Face:
        """The one face that a caller gave, its crop of a side that the network takes."""
        found = self.several(face)
        if len(found) != 1:
            raise EvaluationError(f"expected one face, found {len(found)}")
        return found[0]

    def several(self, faces: Any) -> list[Face]:
        """The faces that a caller gave, their crops of one side that the network takes."""
        found = self._faces(faces)
        self._crops(found)
        return found

    def _faces(self, given: Any) -> list[Face]:
        found = list(faces_of(given, self.input_spec.size))
        if not found:
            raise EvaluationError("expected faces, found an empty list")
        return found

    def _crops(self, faces: Sequence[Face]) -> list[NDArray[np.uint8]]:
        for face in faces:
            self.network.check_size(len(face.crop), face.name)
        if len({len(face.crop) for face in faces}) > 1:
            raise EvaluationError("crops of several sizes; give those of each size by themselves")
        return [face.crop for face in faces]

    def _described(
        self, faces: Sequence[Face], groups: frozenset[str], **beside: Tensor
    ) -> dict[str, NDArray[np.float32]]:
        crops = self._crops(faces)
        if self._untried:
            images = torch.from_numpy(np.stack(crops[:TRIED]))
            check_own(self.network.backbone, self.network.name, images)
            self._untried = False
        names = [face.name for face in faces]
        return describe_crops(self.network, crops, groups, names, self.beside(faces) | beside)

    def beside(self, faces: Sequence[Face]) -> Beside:
        """What the network is told of these faces besides their crops."""
        if not self.network.needs_keypoints:
            return {}
        points = []
        for face in faces:
            if face.landmarks is None:
                raise EvaluationError(
                    f"{face.name}: {self.network.name} needs to know where five landmarks lie, and "
                    "this face has none; give a photograph, fg.align(…) or a row of a cache"
                )
            points.append(five_points(face.landmarks) / len(face.crop))
        return {"keypoints": torch.from_numpy(np.stack(points).astype(np.float32))}

    def _held(self, faces: Sequence[Face], needs: frozenset[str], hidden: Hidden) -> Faces:
        """What a matcher needs of these faces, as a store would give it."""
        head = self.network.occlusion_head is not None and hidden == "zero"
        groups = groups_for(needs, True, "head" if head else None)
        device, visibility = self.network.device, None
        if VISIBILITY in needs and not head:
            visibility = torch.from_numpy(_own_visibility(faces)).to(device)
        dropped = {} if visibility is None or hidden == "zero" else {"visible": visibility}
        found = self._described(faces, groups, **dropped)

        def tensor(name: str) -> Tensor:
            return torch.from_numpy(found[name]).to(device)

        if VISIBILITY in needs and head:
            visibility = tensor("visibility")
        return Faces(
            tensor("embedding") if EMBEDDING in needs else None,
            tensor("feature_map") if MAP in needs else None,
            visibility,
        )


def _own_visibility(faces: Sequence[Face]) -> NDArray[np.float32]:
    """(N, g, g) what the faces know themselves; all visible where others know and one does not."""
    known = [face.visibility for face in faces if face.visibility is not None]
    if not known:
        raise EvaluationError(
            "no visibility data: give weights with an occlusion head, or rows of a cache that "
            "`prep masks` has seen"
        )
    clear = np.ones_like(known[0])
    return np.stack([clear if face.visibility is None else face.visibility for face in faces])


def _parts(
    matcher: str, scales: str | os.PathLike[str] | None
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Matchers with their weights in a fusion, and their scales; of one matcher only itself."""
    if matcher != "fused" and matcher not in FUSIONS:
        if scales is not None:
            raise EvaluationError(f"fusion_scales is for a fusion; leave it out for {matcher}")
        return {matcher: 1.0}, {}
    if scales is None:
        raise EvaluationError(
            f"{matcher} is a fusion: give fusion_scales, the fusion.json of an earlier run"
        )
    return fusion.read_fusion(Path(scales), matcher)
