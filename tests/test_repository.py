"""What holds for the repository as a whole: links, directions of imports, help, README."""

from __future__ import annotations

import ast
import configparser
import functools
import importlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from tests.conftest import FOLDER, REPOSITORY, SLOW

from faceguide.core.commands.console import Command

FOLDERS = ("core", "cache", "preprocess", "train", "evaluate")
MAY_IMPORT = {
    "core": {"core"},
    "cache": {"cache", "core"},
    "preprocess": {"preprocess", "cache", "core"},
    "train": {"train", "cache", "core"},
    "evaluate": {"evaluate", "train", "cache", "core"},
}
# Prepares the sets that it finds.
PREPARES = "evaluate/suite/"
# What every room may import, training to verify with evaluation's own figures: it imports nothing
# but core, cache and the like of it.
SHARED = ("train.models", "evaluate.metrics")
MODULES_OF_A_FOLDER = 15


def modules() -> Iterator[Path]:
    for folder in FOLDERS:
        yield from sorted((REPOSITORY / folder).rglob("*.py"))


@functools.cache
def nodes(path: Path) -> list[ast.AST]:
    """Everything in a module, itself first."""
    return list(ast.walk(ast.parse(path.read_text())))


def imports(path: Path) -> set[str]:
    """Names below `faceguide` that a module imports."""
    found = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("faceguide.") for name in found if name.startswith("faceguide.")}


def test_what_is_slow_exists_and_is_listed_once() -> None:
    assert len(set(SLOW)) == len(SLOW)
    lacking = [n for n in SLOW if not ((FOLDER / n).is_dir() or (FOLDER / f"{n}.py").is_file())]
    assert not lacking


def test_tests_stand_in_the_folders_of_the_code() -> None:
    """But for those of the front door, of several rooms, and of bench and machines."""
    tested = {path.parent.relative_to(FOLDER) for path in FOLDER.rglob("test_*.py")}
    others = {Path(), *map(Path, ("bench", "campaigns", "cluster", "front_door"))}
    assert tested - others <= {path.parent.relative_to(REPOSITORY) for path in modules()}


def scripts() -> dict[str, str]:
    config = configparser.ConfigParser()
    config.read(REPOSITORY / "setup.cfg")
    lines = config["options.entry_points"]["console_scripts"].strip().splitlines()
    return dict(re.split(r"\s*=\s*", line.strip()) for line in lines)


def commands(
    name: str, command: click.Command, parents: str = ""
) -> Iterator[tuple[str, click.Command]]:
    yield f"{parents}{name}", command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            assert found is not None
            yield from commands(child, found, f"{parents}{name} ")


def all_commands() -> list[tuple[str, click.Command]]:
    found = []
    for name, target in scripts().items():
        module, _, attribute = target.partition(":")
        if name != "faceguide":
            found += list(commands(name, getattr(importlib.import_module(module), attribute)))
    return found


def test_the_package_is_the_folders() -> None:
    for folder in FOLDERS:
        link = REPOSITORY / "src" / "faceguide" / folder
        assert link.is_symlink()
        assert link.resolve() == REPOSITORY / folder


def test_the_install_names_every_package() -> None:
    config = configparser.ConfigParser()
    config.read(REPOSITORY / "setup.cfg")
    listed = config["options"]["packages"].split()
    found = {path.parent.relative_to(REPOSITORY) for path in modules()}
    assert listed == ["faceguide", *sorted(f"faceguide.{'.'.join(path.parts)}" for path in found)]
    directories = dict(
        re.split(r"\s*=\s*", line) for line in config["options"]["package_dir"].split("\n") if line
    )
    assert directories == {
        "faceguide": "src/faceguide",
        **{f"faceguide.{folder}": folder for folder in FOLDERS},
    }


def test_a_folder_has_few_modules_and_a_name_stands_once() -> None:
    names = Counter(path.name for path in modules())
    assert [name for name, n in names.items() if n > 1] == ["__init__.py", "cli.py"]
    folders = Counter(path.parent for path in modules())
    crowded = [str(path) for path, n in folders.items() if n > MODULES_OF_A_FOLDER]
    assert not crowded


MODULES = [str(path.relative_to(REPOSITORY)) for path in modules()]


@pytest.mark.parametrize("path", MODULES)
def test_imports_point_one_way(path: str) -> None:
    is_shared = path.replace("/", ".").startswith(SHARED)
    may_import = {"core", "cache"} if is_shared else MAY_IMPORT[path.split("/")[0]]
    if path.startswith(PREPARES):
        may_import = may_import | {"preprocess"}
    for name in imports(REPOSITORY / path):
        parts = name.split(".")
        if parts[0] not in FOLDERS:
            above = name == "__version__" or path.endswith("_command.py")
            assert above, f"{path} imports {name} of the front door above it"
        elif not name.startswith(SHARED):
            assert parts[0] in may_import, f"{path} imports {name}"
        assert "cli" not in parts, f"{path} imports a command module"


# Two things of one name: the cells of heatmaps and of visibility maps; crops of a forward and of a
# backward pass; where a run, tables or a page go; methods that are tested, and those of a picture;
# a run that is estimated, a folder looked through.
TWO_THINGS = {
    ("prep", "--grid"),
    *(("evaluate", flag) for flag in ("--batch-size", "--out", "--methods", "--dry-run")),
}


@pytest.mark.parametrize("group", ["prep", "cache", "evaluate"])
def test_an_option_is_declared_once(group: str) -> None:
    """The same option has the same type, default and help in every command of a group."""
    declared: dict[str, dict[str, str]] = {}
    for name, command in all_commands():
        if name.split()[0] == group and "submit" not in name.split():
            for param in command.params:
                about = {**param.to_info_dict(), "name": ""}
                declared.setdefault(param.opts[0], {})[str(about)] = name
    options = {flag: seen for flag, seen in declared.items() if flag.startswith("-")}
    assert options
    twice = {flag: seen for flag, seen in options.items() if len(seen) > 1}
    assert not {flag: seen for flag, seen in twice.items() if (group, flag) not in TWO_THINGS}
    assert {(group, flag) for flag in twice} == {two for two in TWO_THINGS if two[0] == group}


def test_options_stay_above_the_commands() -> None:
    """Below the modules of commands, options are fields and no texts."""
    for path in modules():
        if path.parts[len(REPOSITORY.parts)] != "train" and "submit" not in path.name:
            assert 'options["' not in path.read_text(), path


def test_every_command_has_help_with_an_example_and_is_in_the_readme() -> None:
    pages = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
    pages.remove(REPOSITORY / "docs" / "commands.md")  # has every command, being made of them
    text = "\n".join(page.read_text() for page in pages)
    for name, command in all_commands():
        context = click.Context(command, info_name=name, help_option_names=["-h", "--help"])
        shown = command.get_help(context)
        if isinstance(command, click.Group) and " " in name:
            continue
        assert isinstance(command, (Command, click.Group)), f"{name} has no -h of its own"
        assert "Example" in shown, f"{name} --help has no example"
        assert re.search(rf"\b{name}\b", text), f"{name} is in no page"


def test_the_umbrella_has_every_group() -> None:
    from faceguide.__main__ import GROUPS, main

    assert set(GROUPS) == set(scripts()) - {"faceguide"}
    context = click.Context(main)
    for group in GROUPS:
        assert isinstance(main.get_command(context, group), click.Group)


def test_links_of_the_pages_lead_somewhere() -> None:
    for page in [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_kind_of_doubt_is_in_the_promises() -> None:
    from faceguide.core.commands.doubts import KINDS

    text = (REPOSITORY / "docs" / "promises.md").read_text()
    assert [kind for kind in KINDS if f"`{kind}`" not in text] == []


def _offered(tree: ast.Module) -> set[str]:
    """What a module says in `__all__`."""
    return {
        name
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
        for name in ast.literal_eval(node.value)
    }


def _is_public(node: ast.AST) -> bool:
    """A function or class that is neither private nor a command."""
    if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
        return False
    marks = [ast.unparse(mark) for mark in node.decorator_list]
    return not any("command" in mark or "group" in mark for mark in marks)


def test_what_is_public_has_a_caller_or_stands_in_all() -> None:
    """What only tests call is left over from something.

    A function or class is called where a module imports it, takes it from its imported module, or
    names it beside its definition; a method of a class that inherits nothing where any line of
    the product names it.
    """
    paths = [*modules(), *(REPOSITORY / "src" / "faceguide").glob("*.py")]
    called, named = set[str](), Counter[str]()
    for path in paths:
        called |= imports(path)
        local = {
            alias.asname or alias.name: f"{node.module}.{alias.name}".removeprefix("faceguide.")
            for node in nodes(path)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        for node in nodes(path):
            if isinstance(node, ast.Attribute):
                named[node.attr] += 1
                if isinstance(node.value, ast.Name) and node.value.id in local:
                    called.add(f"{local[node.value.id]}.{node.attr}")
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                named[node.value] += 1  # as `getattr` is given it
    left_over = []
    for path in modules():  # the front door is there for users
        tree = nodes(path)[0]
        module = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
        module = module.removesuffix(".__init__")
        beside = Counter(node.id for node in nodes(path) if isinstance(node, ast.Name))
        known = called | {f"{module}.{name}" for name in _offered(tree)}
        for node in filter(_is_public, tree.body):
            if f"{module}.{node.name}" not in known:
                own = sum(isinstance(n, ast.Name) and n.id == node.name for n in ast.walk(node))
                if beside[node.name] == own:
                    left_over.append(f"{module}.{node.name}")
            methods = node.body if isinstance(node, ast.ClassDef) and not node.bases else []
            left_over += [
                f"{module}.{node.name}.{method.name}"
                for method in filter(_is_public, methods)
                if not named[method.name]
            ]
    assert left_over == []


LOOP_LINES, LOOP_DEPTH = 60, 3


def depth(node: ast.AST) -> int:
    """Levels of blocks inside blocks."""
    below = max((depth(child) for child in ast.iter_child_nodes(node)), default=0)
    return below + isinstance(node, (ast.For, ast.While, ast.If, ast.With, ast.Try))


def test_the_training_loop_fits_a_screen() -> None:
    tree = ast.parse((REPOSITORY / "train" / "loop.py").read_text())
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert {"train", "log", "evaluate", "checkpoint"} == set(functions)
    assert "backward" in ast.dump(functions["train"])
    for name, function in functions.items():
        lines = (function.end_lineno or 0) - function.lineno + 1
        assert lines <= LOOP_LINES, f"{name} has {lines} lines"
        assert depth(function) <= LOOP_DEPTH, f"{name} is {depth(function)} levels deep"


# What a reader passes from `train cal` to `.backward()`, before models and cache: the options, the
# run, the loop, the step, the losses.
SPINE = (
    "cli", "training_settings", "cal/cal_settings", "cal/cal_run", "loop", "training",
    "cal/cal_step", "cal/cal_terms", "cal/attention_guidance", "cal/guidance_losses",
)  # fmt: skip
SPINE_FILES, SPINE_LINES = 10, 1500
# The call stack within it: module, its function, and what that calls in the next.
CALLS = (
    ("cli", "cal_command", "run_cal"),
    ("cal/cal_run", "run_cal", "train"),
    ("loop", "train", "trainer.step"),
    ("cal/cal_run", "step", "self._step"),
    ("cal/cal_step", "__call__", "attention_guidance.guide_passes"),
    ("cal/attention_guidance", "guide", "landmark_loss"),
)


def test_the_way_from_the_command_to_the_gradient_is_short() -> None:
    paths = {name: REPOSITORY / "train" / f"{name}.py" for name in SPINE}
    assert len(paths) <= SPINE_FILES
    assert sum(len(path.read_text().splitlines()) for path in paths.values()) <= SPINE_LINES
    imported = set().union(*(imports(path) for path in paths.values()))
    for name in SPINE[1:]:
        module = f"train.{name.replace('/', '.')}"
        assert any(found.startswith(module) for found in imported), f"nothing passes {name}"
    for name, function, called in CALLS:
        found = [
            node
            for node in ast.walk(ast.parse(paths[name].read_text()))
            if isinstance(node, ast.FunctionDef) and node.name == function
        ]
        assert re.search(rf"\b{re.escape(called)}\(", ast.unparse(found[-1])), f"{name}.{function}"
    trained = (REPOSITORY / "train").rglob("*.py")
    assert [path for path in trained if ".backward(" in path.read_text()] == [paths["loop"]]


def test_no_step_waits_for_the_processor() -> None:
    """A step stays on the device; augmentation on the CPU runs in the stream's threads."""
    steps = (
        *("cal_step", "cal_terms", "attention_guidance", "attention_watch", "guidance_losses"),
        *("oaml_step", "loop", "augment"),
    )
    found = [path for path in modules() if path.stem in steps]
    assert len(found) == len(steps)
    for path in found:
        called = {
            node.func.attr
            for node in nodes(path)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        }
        assert not called & {"cpu", "numpy"}, f"{path} copies to the CPU"


def test_an_option_of_train_is_a_field_and_is_declared_once() -> None:
    """But for --lr, whose defaults differ."""
    flags: Counter[str] = Counter()
    for path in (REPOSITORY / "train").rglob("*.py"):
        tree = ast.parse(path.read_text())
        called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert not called & {"click.option", "click.argument"}, path
        for field in ast.walk(tree):
            if isinstance(field, ast.AnnAssign) and isinstance(field.value, ast.Call):
                made = field.value
                words = [word.value for word in made.args[2:] if isinstance(word, ast.Constant)]
                if ast.unparse(made.func) == "option":
                    flags.update(words or ["--" + ast.unparse(field.target).replace("_", "-")])
    assert len(flags) > 50
    assert {flag for flag, count in flags.items() if count > 1} == {"--lr"}
