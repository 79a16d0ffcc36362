"""The model files that finding faces can use: where they are published, and where they lie here.

None of them comes with faceguide. `pooch` fetches a file under a temporary name, compares its
sha256 and renames it. What an interrupted download has got stays as NAME.part, for the next one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import platformdirs

from faceguide.core.errors import FaceguideError

_FOLDER = "FACEGUIDE_MODELS"  # environment variable
_PATIENCE = 30  # seconds without an answer
_BLOCK = 1 << 12  # bytes; what has come of the last block is lost with the connection


@dataclass(frozen=True)
class ModelFile:
    """One file, as its project publishes it.

    Attributes:
        name: as `prep models` takes it.
        file: its name in the models folder.
        purpose: what it does for `prep landmarks`, in a line.
        licence: of the file.
        address: where its project publishes it.
        sha256: hex.
        size: in bytes.
    """

    name: str
    file: str
    purpose: str
    licence: str
    address: str
    sha256: str
    size: int


MODELS = (
    ModelFile(
        "centerface",
        "centerface.onnx",
        "second looks at veiled, masked and small faces; checks weak finds",
        "MIT",
        "https://raw.githubusercontent.com/Star-Clouds/CenterFace/master/models/onnx/"
        "centerface_bnmerged.onnx",
        "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc",
        7_304_518,
    ),
    ModelFile(
        "yunet",
        "face_detection_yunet_2023mar.onnx",
        "second looks where CenterFace is absent",
        "MIT",
        "https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet/"
        "face_detection_yunet_2023mar.onnx",
        "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
        232_589,
    ),
    ModelFile(
        "face-landmarker",
        "face_landmarker.task",
        "the finders landmarker and opencv",
        "Apache-2.0",
        "https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/"
        "face_landmarker.task",
        "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
        3_758_596,
    ),
)


def models_folder() -> Path:
    """$FACEGUIDE_MODELS, or the user's cache folder."""
    return Path(os.environ.get(_FOLDER) or platformdirs.user_cache_path("faceguide") / "models")


def kept_model(name: str) -> Path | None:
    """The file of a model in the models folder, or None; it may be damaged."""
    path = models_folder() / next(model.file for model in MODELS if model.name == name)
    return path if path.exists() else None


def state(model: ModelFile, folder: Path) -> Literal["here", "absent", "damaged"]:
    """Whether the file is in the folder and has the content that it should have."""
    path = folder / model.file
    if not path.exists():
        return "absent"
    try:
        same = hashlib.sha256(path.read_bytes()).hexdigest() == model.sha256
    except OSError as error:
        raise FaceguideError(f"cannot read {path}: {error.strerror}") from error
    return "here" if same else "damaged"


def fetch(model: ModelFile, folder: Path) -> Path:
    """Fetch a file unless it is there, whole.

    Raises:
        FaceguideError: when it cannot be fetched, is another one, or cannot be written; names the
            address and where the file belongs.
    """
    try:
        import pooch
    except ImportError:
        raise FaceguideError(
            f"fetching needs pooch: pip install 'faceguide[prep]', or fetch {model.address} and "
            f"put it at {folder / model.file}"
        ) from None
    path = folder / model.file
    pooch.get_logger().setLevel("ERROR")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(folder):
            pooch.retrieve(
                model.address,
                f"sha256:{model.sha256}",
                model.file,
                folder,
                downloader=_download(folder / f"{model.file}.part", model.size),
            )
    except ValueError:
        raise FaceguideError(
            f"{model.address} gives another file than expected (sha256 {model.sha256}); get it "
            f"elsewhere and put it at {path}"
        ) from None
    except OSError as error:  # those of requests are too
        raise FaceguideError(
            f"cannot fetch {model.address} ({_cause(error)}); fetch it on another machine and put "
            f"it at {path}"
        ) from None
    return path


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Others wait, and find the file there; a file system without locks keeps nobody out."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _download(part: Path, size: int) -> Callable[[str, str, object], None]:
    """A downloader for pooch that asks for the bytes behind those of `part`."""
    import requests
    from tqdm import tqdm

    def download(address: str, output: str, _: object) -> None:
        here = part.stat().st_size if part.exists() else 0
        if here >= size:  # of another release
            part.unlink()
            here = 0
        wanted = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={here}-"} if here else {})
        with requests.get(address, headers=wanted, stream=True, timeout=_PATIENCE) as answer:
            answer.raise_for_status()
            resumed = answer.status_code == requests.codes.partial_content
            with (
                part.open("ab" if resumed else "wb") as file,
                tqdm(
                    total=size,
                    initial=here if resumed else 0,
                    unit="B",
                    unit_scale=True,
                    desc=part.stem,
                    disable=None,
                ) as progress,
            ):
                for block in answer.iter_content(_BLOCK):
                    file.write(block)
                    progress.update(len(block))
        part.replace(output)

    return download


def _cause(error: OSError) -> str:
    """The kernel of a long message: what the system or the server said."""
    if error.strerror:
        return error.strerror
    kind = type(error).__name__
    response = getattr(error, "response", None)
    return kind if response is None else f"{response.status_code} {response.reason}"
