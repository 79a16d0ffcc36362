"""The finder `face-mesh`: BlazeFace and the attention mesh that mediapipe 0.10.21 carries.

Coordinates are pixels, x right, y down, the centre of the top left pixel at (0, 0), as in
`align`. MediaPipe's normalised coordinate times the width is already in that frame: it samples
its input window without a half-pixel shift. (Shown with mirrored LFW faces enlarged to sides
of 56 to 896 pixels: x + x′ − width = −1 + 0.005·side. The −1 is what pixel centres at whole
numbers give; the rest belongs to the network, half a pixel of its own 192×192 input.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.preprocess.detect.finders import mediapipe_package
from faceguide.preprocess.detect.finders.finder import Limits
from faceguide.preprocess.detect.finders.landmark_message import points_from_message
from faceguide.preprocess.detect.square import Boxes, Image, Square

# `face_landmark_front_cpu` in two halves: from the image to the squares round the faces, and from a
# square to the landmarks, with the presence that the whole keeps to itself.
_HERE = """
executor { name: "" type: "ApplicationThreadExecutor" }
"""  # in the caller's thread: handing each step to another costs a tenth of the whole
_BOXES = """
input_stream: "image"
output_stream: "detections"
output_stream: "squares"
node {
  calculator: "FaceDetectionShortRangeCpu"
  input_stream: "IMAGE:image" output_stream: "DETECTIONS:detections"
}
node {
  calculator: "ImagePropertiesCalculator" input_stream: "IMAGE:image" output_stream: "SIZE:size"
}
node {
  calculator: "BeginLoopDetectionCalculator"
  input_stream: "ITERABLE:detections" input_stream: "CLONE:size"
  output_stream: "ITEM:detection" output_stream: "CLONE:loop_size" output_stream: "BATCH_END:end"
}
node {
  calculator: "FaceDetectionFrontDetectionToRoi"
  input_stream: "DETECTION:detection" input_stream: "IMAGE_SIZE:loop_size"
  output_stream: "ROI:square"
}
node {
  calculator: "EndLoopNormalizedRectCalculator"
  input_stream: "ITEM:square" input_stream: "BATCH_END:end" output_stream: "ITERABLE:squares"
}
"""
_MESH = """
input_stream: "image"
input_stream: "square"
output_stream: "landmarks"
output_stream: "presence"
node {
  calculator: "ImageToTensorCalculator"
  input_stream: "IMAGE:image" input_stream: "NORM_RECT:square" output_stream: "TENSORS:input"
  options { [mediapipe.ImageToTensorCalculatorOptions.ext] {
    output_tensor_width: 192 output_tensor_height: 192
    output_tensor_float_range { min: 0.0 max: 1.0 }
  } }
}
node {
  calculator: "TfLiteCustomOpResolverCalculator" output_side_packet: "OP_RESOLVER:operations"
}
node {
  calculator: "FaceLandmarksModelLoader"
  input_side_packet: "WITH_ATTENTION:with_attention" output_side_packet: "MODEL:model"
}
node {
  calculator: "InferenceCalculator"
  input_stream: "TENSORS:input" output_stream: "TENSORS:output"
  input_side_packet: "MODEL:model" input_side_packet: "OP_RESOLVER:operations"
  options { [mediapipe.InferenceCalculatorOptions.ext] {
    delegate { xnnpack { num_threads: 1 } }
  } }
}
node {
  calculator: "SplitTensorVectorCalculator"
  input_stream: "output" output_stream: "points" output_stream: "flag"
  options { [mediapipe.SplitVectorCalculatorOptions.ext] {
    ranges { begin: 0 end: 6 } ranges { begin: 6 end: 7 }
  } }
}
node {
  calculator: "TensorsToFloatsCalculator"
  input_stream: "TENSORS:flag" output_stream: "FLOAT:presence"
  options { [mediapipe.TensorsToFloatsCalculatorOptions.ext] { activation: SIGMOID } }
}
node {
  calculator: "TensorsToFaceLandmarksWithAttention"
  input_stream: "TENSORS:points" output_stream: "LANDMARKS:inside"
}
node {
  calculator: "LandmarkProjectionCalculator"
  input_stream: "NORM_LANDMARKS:inside" input_stream: "NORM_RECT:square"
  output_stream: "NORM_LANDMARKS:landmarks"
}
"""
# The options in these texts are known once these modules are imported.
_OPTIONS = (
    "mediapipe.calculators.tensor.image_to_tensor_calculator_pb2",
    "mediapipe.calculators.tensor.inference_calculator_pb2",
    "mediapipe.calculators.tensor.tensors_to_floats_calculator_pb2",
    "mediapipe.calculators.core.split_vector_calculator_pb2",
)


class _Graph:
    """One of MediaPipe's graphs, run image by image."""

    def __init__(
        self, text: str, outputs: Mapping[str, Callable[[Any], Any]], side: dict[str, Any]
    ) -> None:
        self._graph = mediapipe_package.load().CalculatorGraph(graph_config=_HERE + text)
        self._found: dict[str, Any] = {}
        self._time = 0
        for name, read in outputs.items():
            self._observe(name, read)
        self._graph.start_run(side)

    def _observe(self, name: str, read: Callable[[Any], Any]) -> None:
        def keep(_: str, packet: Any) -> None:
            self._found[name] = read(packet)

        self._graph.observe_output_stream(name, keep)

    def __call__(self, **packets: Any) -> dict[str, Any]:
        """What comes out, by name; a stream that stays silent is missing."""
        self._time += 1
        self._found = {}
        for name, packet in packets.items():
            self._graph.add_packet_to_input_stream(name, packet.at(self._time))
        self._graph.wait_until_idle()
        return self._found

    def close(self) -> None:
        self._graph.close()


class FaceMesh:
    """Face Mesh with refined eyes and lips, its two steps apart.

    In the squares of its own boxes its landmarks are those of `mediapipe.solutions.FaceMesh`, bit
    for bit. Each image is independent of those before it.

    Raises:
        FaceguideError: when mediapipe cannot be loaded.
    """

    name = "face-mesh"
    doubted: Limits | None = None
    limits: Mapping[str, Limits] = {
        "centerface": Limits(presence=0.02, mirror=0.15, eyes=0.35),
        "yunet": Limits(presence=0.9, mirror=0.1, eyes=0.3),
        "mediapipe": Limits(presence=0.5, mirror=0.2, eyes=0.3),
    }

    def __init__(self) -> None:
        package = mediapipe_package.load()
        self.version = f"mediapipe {mediapipe_package.version()}"
        self.digest = mediapipe_package.bundled_digest()
        self._format = package.ImageFormat.SRGB
        self._create = mediapipe_package.load("mediapipe.python.packet_creator")
        self._rect = mediapipe_package.load("mediapipe.framework.formats.rect_pb2").NormalizedRect
        get = mediapipe_package.load("mediapipe.python.packet_getter")
        getters = mediapipe_package.load("mediapipe.python._framework_bindings._packet_getter")
        resources = mediapipe_package.load("mediapipe.python._framework_bindings.resource_util")
        resources.set_resource_dir(str(Path(package.__file__).parents[1]))
        mediapipe_package.load(*_OPTIONS)
        # Squares of the last image's boxes and MediaPipe's own numbers for them: pixels and back
        # differ in the last bit, which may move a landmark by .0006 eye distances.
        self._own: dict[tuple[Square, tuple[int, ...]], Any] = {}
        blank = np.zeros((64, 64, 3), np.uint8)
        with mediapipe_package.quiet():
            outputs = {"detections": get.get_proto_list, "squares": get.get_proto_list}
            self._detector = _Graph(_BOXES, outputs, {})
            outputs = {"landmarks": getters._get_serialized_proto, "presence": get.get_float}
            side = {"with_attention": self._create.create_bool(True)}
            self._mesh = _Graph(_MESH, outputs, side)
            self.boxes(blank)
            self.mesh(blank, Square(32, 32, 32, 0))

    def boxes(self, image: Image) -> Boxes:
        """Faces that BlazeFace sees; see `Finder`."""
        found = self._detector(image=self._packet(image))
        detections, squares = found.get("detections", []), found.get("squares", [])
        order = sorted(range(len(detections)), key=lambda i: -detections[i].score[0])
        height, width = image.shape[:2]
        shares = np.empty((len(order), 4, 2))
        for row, index in zip(shares, order, strict=True):
            place = detections[index].location_data
            box, (right, left) = place.relative_bounding_box, place.relative_keypoints[:2]
            row[:] = (
                (box.xmin, box.ymin),
                (box.xmin + box.width, box.ymin + box.height),
                (right.x, right.y),
                (left.x, left.y),
            )
        points = (shares * (width, height)).astype(np.float32)
        scores = np.array([detections[i].score[0] for i in order], np.float32)
        boxes = Boxes(points[:, :2].reshape(-1, 4), scores, points[:, 2:])
        own = zip(range(len(order)), order, strict=True)
        self._own = {(boxes.square(i), image.shape): squares[index] for i, index in own}
        return boxes

    def mesh(self, image: Image, square: Square) -> tuple[NDArray[np.float32], float]:
        """The landmarks in a square; see `Finder`."""
        height, width = image.shape[:2]
        rect = self._own.get((square, image.shape)) or self._rect(
            x_center=square.x / width,
            y_center=square.y / height,
            width=square.side / width,
            height=square.side / height,
            rotation=square.angle,
        )
        found = self._mesh(image=self._packet(image), square=self._create.create_proto(rect))
        # MediaPipe scales z by the width, like x.
        points = points_from_message(found["landmarks"]) * (width, height, width)
        return points.astype(np.float32), found["presence"]

    def _packet(self, image: Image) -> Any:
        """The image for a graph, which reads the pixels where they are."""
        pixels = np.ascontiguousarray(image).view()
        pixels.flags.writeable = False
        return self._create.create_image_frame(pixels, image_format=self._format)

    def close(self) -> None:
        """Release the graphs."""
        self._detector.close()
        self._mesh.close()
