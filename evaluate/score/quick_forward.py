"""The passes of a network as one frozen graph, for the many faces of an evaluation.

Normalisation is folded into the convolutions before it. What needs gradients runs so with channels
last; the other passes are traced once. In float32 networks with depthwise convolutions run in
oneDNN's own layout, and linear layers of transformers by its matrix products. The numbers differ
from those of the network itself by rounding.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from queue import SimpleQueue
from typing import TypeVar

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from faceguide.train.models.backbones.backbone import FaceBackbone
from faceguide.train.models.backbones.vit import ViT
from faceguide.train.models.loading.network import Network

Worker = TypeVar("Worker")
Item = TypeVar("Item")
Found = TypeVar("Found")

_BATCH_CPU, _BATCH_GPU = 8, 128  # larger batches leave a core's cache


def batch_size_of(network: Network) -> int:
    """Crops of one forward pass where nobody says how many."""
    return _BATCH_CPU if network.device.type == "cpu" else _BATCH_GPU


def workers_of(network: Network) -> int:
    """Threads that each run a forward pass of their own on one core.

    That is faster than one pass on all cores, and its numbers do not depend on how many there
    are. A network that is not ours may not be safe to call so.
    """
    return torch.get_num_threads() if _is_ours(network) else 1


@contextmanager
def on_one_core(workers: int) -> Iterator[int]:
    """Where passes run in several threads, keep those of this one to one core, too.

    Cores of one pass wait for each other by turning: most of its cost on a busy machine.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1 if workers > 1 else before)
    try:
        yield workers
    finally:
        torch.set_num_threads(before)


def in_threads(
    work: Callable[[Worker, Item], Found], items: Iterable[Item], crew: Sequence[Worker]
) -> Iterator[Found]:
    """work(worker, item) of each item, in order; a worker has a thread and a core of its own.

    Args:
        work: is called by one thread at a time with the same worker.
        items: each for one call.
        crew: at least one; a single one has the caller's thread and all cores.
    """
    if len(crew) == 1:
        yield from (work(crew[0], item) for item in items)
        return
    idle: SimpleQueue[Worker] = SimpleQueue()
    for worker in crew:
        idle.put(worker)

    def one(item: Item) -> Found:
        torch.set_num_threads(1)  # of this thread
        worker = idle.get()
        try:
            return work(worker, item)
        finally:
            idle.put(worker)

    pool = ThreadPoolExecutor(len(crew))
    try:
        yield from pool.map(one, items)
    finally:
        pool.shutdown(cancel_futures=True)


def quickened(network: Network) -> Network:
    """The network with its passes as a graph, where it is one of ours on a processor."""
    # Which tokens are left out differs from face to face: that is no one graph.
    if not _is_ours(network) or network.hidden == "drop":
        return network
    assert isinstance(network.backbone, FaceBackbone)
    # oneDNN's own layout and weights keep their precision, whatever autocast says.
    whole = network.precision == "float32"
    return replace(network, backbone=_Graph(network.backbone, network.map_side, whole))


def _is_ours(network: Network) -> bool:
    ours = isinstance(network.backbone, FaceBackbone) and not network.is_foreign
    return ours and network.device.type == "cpu"


class _Run(nn.Module):
    """`FaceBackbone.run` with plain tensors in and out, as a tracer needs it."""

    def __init__(self, backbone: FaceBackbone, sides: Collection[int]) -> None:
        super().__init__()
        self.backbone, self.sides = backbone, sides

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        raw, maps = self.backbone.run(pixels, self.sides)
        return (raw, *(maps[side] for side in self.sides))


class _RunToldKeypoints(_Run):
    """The same of a network that is told landmarks."""

    def forward(self, pixels: Tensor, keypoints: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        raw, maps = self.backbone.run(pixels, self.sides, keypoints=keypoints)
        return (raw, *(maps[side] for side in self.sides))


def _folded(run: nn.Module) -> fx.GraphModule:
    """The same with every BatchNorm that follows a convolution inside its weights."""
    found = fx.symbolic_trace(run)
    modules: dict[object, nn.Module] = dict(found.named_modules())
    for node in found.graph.nodes:
        norm = modules.get(node.target)
        if not isinstance(norm, nn.BatchNorm2d):
            continue
        before = node.args[0]
        conv = modules.get(before.target)
        if isinstance(conv, nn.Conv2d) and len(before.users) == 1:
            found.set_submodule(before.target, fuse_conv_bn_eval(conv, norm).requires_grad_(False))
            node.replace_all_uses_with(before)
            found.graph.erase_node(node)
    found.delete_all_unused_submodules()
    found.recompile()
    return found


class _Linear(nn.Module):
    """A linear layer with weights in the order that oneDNN wants for so many rows."""

    def __init__(self, linear: nn.Linear, rows: int) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), rows)
        bias: Tensor | None = linear.bias
        self.bias = None if bias is None else bias.detach()

    def forward(self, tokens: Tensor) -> Tensor:
        found: Tensor = torch.ops.mkldnn._linear_pointwise(
            tokens, self.weight, self.bias, "none", [], ""
        )
        return found


def _by_onednn(run: nn.Module, rows: int) -> nn.Module:
    """A copy whose linear layers over tokens are oneDNN's."""
    found = copy.deepcopy(run)
    for name, module in run.named_modules():
        if isinstance(module, nn.Linear) and ".blocks." in name:
            found.set_submodule(name, _Linear(module, rows))
    return found


def _traced(run: nn.Module, given: tuple[Tensor, ...], blocked: bool) -> nn.Module:
    """The passes as a frozen graph, in oneDNN's own layout or as they are."""
    optimise = torch.jit.optimize_for_inference if blocked else torch.jit.freeze
    with warnings.catch_warnings(), torch.no_grad():
        # The tracer is to be replaced by one that needs a C++ compiler on the user's machine.
        warnings.simplefilter("ignore")
        found: nn.Module = optimise(torch.jit.trace(run, given, check_trace=False))
    return found


class _Graph(FaceBackbone):
    """A backbone whose passes run as one graph, which gives at most one map.

    Args:
        backbone: whose passes.
        map_side: of the map.
        float32: whether its numbers are; then passes without gradients are oneDNN's where that is
            faster.
    """

    def __init__(self, backbone: FaceBackbone, map_side: int, float32: bool) -> None:
        super().__init__()
        self.input_spec, self.embedding_size = backbone.input_spec, backbone.embedding_size
        self.needs_keypoints, self.map_side = backbone.needs_keypoints, map_side
        self.map_channels = {
            side: channels for side, channels in backbone.map_channels.items() if side == map_side
        }
        run = _RunToldKeypoints if self.needs_keypoints else _Run
        whole: nn.Module = run(backbone, tuple(self.map_channels)).eval()
        if any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules()):
            whole = _folded(whole)
        blocked = float32 and any(
            isinstance(module, nn.Conv2d) and module.groups > 1 for module in backbone.modules()
        )
        self.layout = torch.contiguous_format if blocked else torch.channels_last
        whole.to(memory_format=self.layout)  # type: ignore[call-overload]
        side = backbone.input_spec.size
        given = [torch.zeros(2, 3, side, side).contiguous(memory_format=self.layout)]
        if self.needs_keypoints:
            given.append(torch.zeros(2, 5, 2))
        if float32 and isinstance(backbone, ViT) and torch.backends.mkldnn.is_available():
            self.graph = _by_onednn(whole, _BATCH_CPU * backbone.map_side**2)
        else:
            self.graph = _traced(whole, tuple(given), blocked)
        self.whole = whole.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def run(
        self, images: Tensor, sides: Collection[int] = (), **beside: Tensor
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """See `FaceBackbone.run`."""
        if torch.is_grad_enabled() and images.requires_grad:
            raw, *maps = self.whole(images, *beside.values())
        else:
            raw, *maps = self.graph(images.contiguous(memory_format=self.layout), *beside.values())
        return raw, dict(zip(self.map_channels, maps, strict=True))

    def feature_map(self, images: Tensor, map_size: int | None = None, **beside: Tensor) -> Tensor:
        """See `FaceBackbone.feature_map`."""
        return self.forward_all(images, map_size, **beside).feature_map
