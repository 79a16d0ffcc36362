"""The commands that are disturbed: each on a small set of real photographs, from a known start.

A stage always works in the same folder, so that what it writes of its own paths is equal from
trial to trial; what the undisturbed run left there is kept as digests.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import importlib
import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.demo.photos import write_demo_photos
from tests.cache.remote.range_server import RangeServer, serving
from tests.campaigns.counts import UnavailableError
from tests.campaigns.forkserver import ForkServer, Running

from faceguide.cache.reader import FaceCache
from faceguide.core.errors import FaceguideError
from faceguide.core.files import TEMPORARY

TIMES = ("seconds", "images_per_second", "data_wait")  # fields of metrics.jsonl


@dataclass(frozen=True)
class World:
    """What the stages begin with.

    Attributes:
        server: runs the commands.
        folder: everything lies in it.
    """

    server: ForkServer
    folder: Path

    @functools.cached_property
    def store(self) -> RangeServer:
        """Serves the folder by HTTP.

        Raises:
            UnavailableError: when nothing here reads from it.
        """
        try:
            importlib.import_module("fsspec").get_filesystem_class("http")
        except ImportError as error:
            raise UnavailableError(f"pip install 'faceguide[remote]' ({error})") from None
        served = serving(self.folder)
        server = served.__enter__()
        atexit.register(served.__exit__, None, None, None)
        return server

    @property
    def volumes(self) -> tuple[Path, Path]:
        """Two caches that share the set: one identity, and the others."""
        found = self.folder / "volume-1", self.folder / "volume-2"
        people = sorted((self.photos / "photos").iterdir())
        for volume, some in zip(found, (people[:1], people[1:]), strict=True):
            if volume.exists():
                continue
            part = self.folder / f"photos of {volume.name}"
            for person in some:
                shutil.copytree(person, part / person.name)
            self.must("prep", "landmarks", part, "--out", volume, "--shard-rows", 3, *ONE)
            masks = (self.photos / "masks", "--cache", volume, *VISIBLE)
            self.must("prep", "masks", *masks, "--allow-failures", *ONE)
        return found

    @property
    def photos(self) -> Path:
        """The demo set."""
        return self.folder / "set"

    @property
    def cache(self) -> Path:
        """A whole cache of it."""
        return self.folder / "cache"

    @property
    def network(self) -> Path:
        """A run of `train oaml` on that, made when a stage first wants it."""
        run = self.folder / "network"
        if not run.exists():
            self.must("train", *OAML, self.cache, "--out", run, "--steps", 1)
        return run

    @property
    def work(self) -> Path:
        """Where the disturbed command works."""
        return self.folder / "work"

    @property
    def log(self) -> Path:
        """Of the command that runs."""
        return self.folder / "log"

    def must(self, *words: object) -> None:
        """Run a command that has to work."""
        status, said = self.server.run([str(word) for word in words], self.log)
        if status != 0:
            raise RuntimeError(f"{' '.join(map(str, words))} ended with {status}: {said}")


@functools.cache
def the_world() -> World:
    """Draw the set and fill a cache: once per process, removed at its end."""
    folder = Path(tempfile.mkdtemp(prefix="faults-world-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    server = ForkServer()
    atexit.register(server.close)
    world = World(server, folder)
    photos, cache = world.photos, world.cache
    write_demo_photos(photos, identities=3, images=4)
    world.must("prep", "landmarks", photos / "photos", "--out", cache, "--shard-rows", 3, *ONE)
    world.must("prep", "masks", photos / "masks", "--cache", cache, *VISIBLE, *ONE)
    return world


ONE = ("--jobs", 1)
VISIBLE = ("--polarity", "visible", "--clean", ".")
CAL = (
    *("cal", "--model", "cal_mobilefacenet", "--heads", 8, "--crop", 32, "--batch-size", 6),
    *("--guide", "regions", "--lr", 2e-4, "--log-every", 1, "--save-every", 1, "--device", "cpu"),
)
OAML = (
    *("oaml", "--backbone", "mobilefacenet", "--batch-size", 4, "--images-per-person", 2),
    *("--occlusion-batch", 2, "--lr", 1e-3, "--log-every", 1, "--save-every", 1),
    *("--device", "cpu"),
)


@dataclass(frozen=True)
class Stage:
    """A command and where it starts.

    Attributes:
        words: of the command.
        begin: what must lie in the work folder before: name → folder that is copied there.
        cache: name of the cache in the work folder whose rows are counted; None = none.
    """

    words: Callable[[World], tuple[object, ...]]
    begin: Callable[[World], Mapping[str, Path]] = lambda world: {}
    cache: str | None = None

    @property
    def parts(self) -> bool:
        """Whether the command takes --part without a step behind it; those of `prep` do."""
        return self.cache == "cache"


def _landmarks(jobs: int) -> Stage:
    return Stage(
        lambda world: (
            *("prep", "landmarks", world.photos / "photos", "--out", world.work / "cache"),
            *("--shard-rows", 3, "--jobs", jobs),
        ),
        cache="cache",
    )


def _of_cache(*words: object) -> Callable[[World], tuple[object, ...]]:
    return lambda world: (*words, "--cache", world.work / "cache", *ONE)


def _pairs(world: World) -> tuple[object, ...]:
    return (world.cache, "--pairs", world.photos / "pairs.csv", "--weights", world.network)


STAGES = {
    "prep landmarks": _landmarks(1),
    "prep landmarks, 2 processes": _landmarks(2),
    "prep masks": Stage(
        lambda world: _of_cache("prep", "masks", world.photos / "masks", *VISIBLE)(world),
        lambda world: {"cache": _without_occlusion(world)},
        "cache",
    ),
    "prep guidance": Stage(
        _of_cache("prep", "guidance", "--grid", 14, "--regions", "points"),
        lambda world: {"cache": world.cache},
        "cache",
    ),
    "train cal": Stage(
        lambda world: (
            *("train", *CAL, world.cache, "--out", world.work / "run", "--epochs", 2),
            *("--pairs", world.photos / "pairs.csv", "--no-views"),
        )
    ),
    "train oaml": Stage(
        lambda world: (
            *("train", *OAML, world.cache, "--out", world.work / "run", "--steps", 4),
            *("--epochs", 2, "--pairs", world.photos / "pairs.csv"),
        )
    ),
    "train oaml, two caches": Stage(
        lambda world: (
            *("train", *OAML, ",".join(map(str, world.volumes)), "--out", world.work / "run"),
            *("--steps", 4, "--epochs", 2, "--pairs", world.photos / "pairs.csv"),
        )
    ),
    "cache copy": Stage(
        lambda world: ("cache", "copy", f"{world.store.address}/cache", world.work / "copy"),
        cache="copy",
    ),
    "evaluate verification": Stage(
        lambda world: (
            *("evaluate", "verification", *_pairs(world), "--out", world.work / "verification"),
            *("--bootstrap", 20),
        )
    ),
    "evaluate attribution": Stage(
        lambda world: (
            *("evaluate", "attribution", *_pairs(world), "--out", world.work / "maps"),
            *(
                "--limit",
                2,
                "--block",
                1,
                "--methods",
                "saliency",
                "--anyway",
                "--infills",
                "blur",
                "--bootstrap",
                5,
            ),
        )
    ),
}


def _without_occlusion(world: World) -> Path:
    plain = world.folder / "plain"
    if not plain.exists():
        shutil.copytree(world.cache, plain)
        for path in [*plain.glob("*occlusion*"), *plain.glob("shared-stems.json")]:
            path.unlink()
    return plain


@dataclass
class Undisturbed:
    """A stage and what it leaves when nothing disturbs it.

    Attributes:
        world: where.
        stage: what.
        seconds: it takes.
        contents: path in the work folder → digest.
        rows: of the cache that the stage fills; empty where it fills none.
    """

    world: World
    stage: Stage
    seconds: float = 0.0
    contents: dict[str, str] = field(default_factory=dict)
    rows: Counter[str] = field(default_factory=Counter)

    @classmethod
    @functools.cache
    def measure(cls, name: str) -> Undisturbed:
        """Run a stage twice: both must leave the same bytes.

        Raises:
            RuntimeError: when it fails or the runs differ.
        """
        world = the_world()
        one = cls(world, STAGES[name])
        seen = []
        for _ in range(2):
            one.begin()
            began = time.monotonic()
            status, said = one.start().finish(), world.log.read_text("utf-8", "replace")
            one.seconds = time.monotonic() - began
            if status != 0:
                raise RuntimeError(f"{name}, undisturbed, ended with {status}: {said}")
            seen.append(contents(world.work))
        if seen[0] != seen[1]:
            raise RuntimeError(f"{name}: two undisturbed runs differ: {_differences(*seen)}")
        one.contents = seen[0]
        one.rows = one.keys()
        return one

    @property
    def words(self) -> list[str]:
        """The command line."""
        return [str(word) for word in self.stage.words(self.world)]

    def begin(self) -> None:
        """Put the work folder into the state that the stage starts from."""
        clear(self.world.work)
        self.world.work.mkdir(exist_ok=True)
        for name, source in self.stage.begin(self.world).items():
            shutil.copytree(source, self.world.work / name)

    def start(
        self, more: Sequence[str] = (), *, stopped: bool = False, log: Path | None = None
    ) -> Running:
        """Start the command, with more words behind it."""
        words = [*self.words, *more]
        return self.world.server.start(words, log or self.world.log, stopped=stopped)

    def keys(self) -> Counter[str]:
        """How often each row's key is in the cache that the stage fills."""
        if self.stage.cache is None:
            return Counter()
        cache = FaceCache.open(self.world.work / self.stage.cache)
        return Counter(cache.texts("key", range(len(cache))))

    def resume(self) -> Outcome:
        """Run the command again and compare what is there then with what should be."""
        status, said = self.start().finish(), self.world.log.read_text("utf-8", "replace")
        if status != 0:
            return Outcome(f"run again, ended with {status}: {last_line(said)}", 0, 0, True)
        return self.compare()

    def compare(self) -> Outcome:
        """Compare what is there with what should be."""
        found = contents(self.world.work)
        try:
            rows = self.keys()
        except FaceguideError as error:
            return Outcome(f"the cache does not open: {error}", 0, 0)
        lost, doubled = (self.rows - rows).total(), (rows - self.rows).total()
        fault = "" if found == self.contents else _differences(self.contents, found)
        return Outcome(fault, lost, doubled)


@dataclass(frozen=True)
class Outcome:
    """What a resumed run came to.

    Attributes:
        fault: what is wrong, "" when nothing is.
        lost: rows that are missing.
        doubled: rows that are there too often.
        crashed: the run itself failed.
    """

    fault: str
    lost: int
    doubled: int
    crashed: bool = False


def clear(folder: Path) -> None:
    """Empty a folder, which may be a mount point."""
    if folder.exists():
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def contents(folder: Path) -> dict[str, str]:
    """Path → digest of every file, but the temporary ones that a killed writer leaves.

    Lines of metrics.jsonl lose the fields that hold times.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not path.is_file() or TEMPORARY in name:
            continue
        data = path.read_bytes()
        if path.name == "metrics.jsonl":
            lines = [json.loads(line) for line in data.splitlines()]
            kept = [{k: v for k, v in line.items() if k not in TIMES} for line in lines]
            data = json.dumps(kept).encode()
        found[name] = hashlib.sha256(data).hexdigest()
    return found


def _differences(one: Mapping[str, str], two: Mapping[str, str]) -> str:
    names = sorted(name for name in {*one, *two} if one.get(name) != two.get(name))
    return f"{len(names)} files differ: {', '.join(names[:4])}"


def last_line(said: str) -> str:
    """The last line of a log."""
    lines = said.strip().splitlines()
    return lines[-1][:300] if lines else "(silence)"
