"""What wheel, source distribution and images hold, and that their recipes name what there is."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from tests.conftest import REPOSITORY

FOLDERS = ("core", "cache", "preprocess", "train", "evaluate")
CONTAINERS = REPOSITORY / "containers"


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout without symbolic links."""
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a clone")
    clone = tmp_path_factory.mktemp("without-links") / "clone"
    words = ["git", "clone", "--quiet", "--config", "core.symlinks=false", REPOSITORY, clone]
    subprocess.run(words, check=True, capture_output=True)
    assert (clone / "src" / "faceguide" / "core").is_file()  # a text file in place of the link
    return clone


def tracked(clone: Path) -> list[str]:
    """Every file but the links."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=clone, text=True, check=True, capture_output=True
    ).stdout.split()
    links = {f"src/faceguide/{folder}" for folder in FOLDERS}
    return [name for name in listed if name not in links]


def packed(source: Path, out: Path) -> set[str]:
    """What a wheel of `source` installs."""
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", out, source], check=True, capture_output=True)
    with zipfile.ZipFile(next(out.glob("faceguide-*.whl"))) as wheel:
        return {name for name in wheel.namelist() if ".dist-info/" not in name}


def code(clone: Path) -> set[str]:
    """What a wheel has to install."""
    names = tracked(clone)
    rooms = {f"faceguide/{name}" for name in names if name.split("/")[0] in FOLDERS}
    return rooms | {name.removeprefix("src/") for name in names if name.startswith("src/")}


def test_a_clone_without_symbolic_links_installs_whole(clone: Path, tmp_path: Path) -> None:
    assert packed(clone, tmp_path) == code(clone)


def test_the_source_distribution_is_the_repository(clone: Path, tmp_path: Path) -> None:
    build = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", build, tmp_path], cwd=clone, check=True, capture_output=True
    )
    with tarfile.open(next(tmp_path.glob("faceguide-*.tar.gz"))) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert set(tracked(clone)) - held == {".gitignore"}


def docker_copies() -> list[tuple[list[str], str]]:
    lines = (CONTAINERS / "Dockerfile").read_text().splitlines()
    copies = [line.split()[1:] for line in lines if line.startswith("COPY ")]
    return [(words[:-1], words[-1]) for words in copies]


def apptainer_copies() -> list[tuple[list[str], str]]:
    text = (CONTAINERS / "faceguide.def").read_text()
    lines = text.partition("%files\n")[2].partition("\n\n")[0].splitlines()
    return [([source], folder) for source, folder in map(str.split, lines)]


@pytest.mark.slow
@pytest.mark.parametrize("copies", [docker_copies, apptainer_copies])
def test_what_an_image_copies_installs_whole(copies, clone: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """The copies are made as the builder makes them, and a wheel is built of them."""
    image = tmp_path / "image"
    for sources, target in copies():
        for source in sources:
            place = image / target.lstrip("/")
            # COPY takes a folder's content to its target, %files the folder into it.
            if copies is apptainer_copies or ((clone / source).is_file() and target.endswith("/")):
                place = place / Path(source).name
            place.parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (clone / source).is_dir() else shutil.copy
            copy(clone / source, place)
    installed = image / "opt" / "faceguide"
    assert packed(installed, tmp_path) == code(clone)
    assert (installed / "containers" / "install.sh").is_file()
    for script in re.findall(r" sh (/opt/faceguide/\S+)", recipes()):
        assert (image / script.lstrip("/")).is_file()
    for pins in re.findall(r"constraints[\w-]*\.txt", (CONTAINERS / "install.sh").read_text()):
        assert (installed / pins).is_file()


def recipes() -> str:
    return "".join((CONTAINERS / name).read_text() for name in ("Dockerfile", "faceguide.def"))


def test_the_images_start_alike_and_run_our_commands() -> None:
    assert set(re.findall(r"(?:FROM|From:) (\S+)", recipes())) == {"python:3.11-slim"}
    defaults = re.findall(r"(?:ARG |^    )TORCH_INDEX=(\w\S+)", recipes(), re.M)
    assert len(defaults) == 2
    assert set(defaults) == {"https://download.pytorch.org/whl/cpu"}
    script = (CONTAINERS / "install.sh").read_text()
    subprocess.run(["sh", "-n"], input=script, text=True, check=True)
    assert f"for command in {' '.join(scripts())}; do" in script
    # What the script needs of the image, which has Debian's shell tools and pip.
    programs = set(re.findall(r"^(?:  )?([a-z-]+) ", script.replace("\\\n", ""), re.M))
    assert programs - {"set", "cd", "if", "for"} == {"apt-get", "rm", "pip"}


def configuration() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(REPOSITORY / "setup.cfg")
    return config


def scripts() -> list[str]:
    lines = configuration()["options.entry_points"]["console_scripts"].split("\n")
    return [line.partition(" =")[0] for line in lines if line]


def system_libraries() -> set[str]:
    found = re.search(r"apt-get install .*recommends (.*)", (CONTAINERS / "install.sh").read_text())
    assert found is not None
    return set(found[1].split())


def test_system_libraries_are_named_alike_and_exist() -> None:
    named = set()
    for path in ("Makefile", ".ci/run", "core/commands/opencv_fault.py"):
        listed = re.findall(
            r"(?:packages\+=\(|install )(lib[\w. -]+)", (REPOSITORY / path).read_text()
        )
        named |= {package for packages in listed for package in packages.split()}
    assert system_libraries() == named
    if shutil.which("apt-cache") is None:
        pytest.skip("no apt")
    shown = subprocess.run(
        ["apt-cache", "show", *sorted(system_libraries())], capture_output=True, text=True
    ).stdout
    if not shown:
        pytest.skip("apt has no lists")
    assert set(re.findall(r"^Package: (\S+)", shown, re.M)) == system_libraries()


def pins(name: str) -> dict[str, str]:
    lines = (REPOSITORY / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def requirements(extras: list[str]) -> list[Requirement]:
    config = configuration()
    texts = config["options"]["install_requires"].split("\n")
    for extra in extras:
        texts += config["options.extras_require"][extra].split("\n")
    found = [Requirement(text) for text in texts if text and not text.startswith("#")]
    nested = [extra for one in found if one.name == "faceguide" for extra in one.extras]
    return [one for one in found if one.name != "faceguide"] + (
        requirements(nested) if nested else []
    )


@pytest.mark.parametrize(
    ("constraints", "python", "machine"),
    [
        ("constraints.txt", "3.11", "x86_64"),
        ("constraints-new.txt", "3.11", "aarch64"),
        ("constraints-new.txt", "3.13", "x86_64"),
    ],
)
def test_constraints_pin_what_we_ask_for(constraints: str, python: str, machine: str) -> None:
    pinned = {name.lower().replace("_", "-"): text for name, text in pins(constraints).items()}
    assert len([name for name in pinned if name.startswith("opencv")]) == 1
    for one in requirements(["test"]):
        environment = {"python_version": python, "platform_machine": machine}
        if one.marker is None or one.marker.evaluate(environment):
            assert one.specifier.contains(pinned[one.name.lower()]), one


def test_the_conda_environment_installs_what_there_is() -> None:
    yaml = pytest.importorskip("yaml")
    wanted = yaml.safe_load((CONTAINERS / "environment.yml").read_text())["dependencies"]
    option, constraints, project = " ".join(wanted[-1]["pip"]).split()
    assert option == "--constraint"
    assert (CONTAINERS / constraints).is_file()
    folder, extra = re.fullmatch(r"(.*)\[(.*)\]", project).groups()  # type: ignore[union-attr]
    assert (CONTAINERS / folder / "setup.cfg").is_file()
    assert extra in configuration()["options.extras_require"]
