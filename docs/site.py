"""The pages of the site that are made and not written.

MkDocs calls `on_files`: the index is the README, next to it come CHANGELOG and CONTRIBUTING, which
live at the root of the repository. `python docs/site.py` writes docs/commands.md, the help of every
command; a test compares it with the commands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
COMMANDS = ROOT / "docs" / "commands.md"
WIDTH = 80  # columns of the help, whatever the terminal


def from_docs(text: str) -> str:
    """A page of the repository's root with its links and images as seen from docs/."""
    for page, target in PAGES.items():
        text = text.replace(f"]({page}", f"]({target}")
    return text.replace("](docs/", "](")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages of the root to those of docs/ (a hook of MkDocs)."""
    from mkdocs.structure.files import File

    for source, page in PAGES.items():
        text = from_docs((ROOT / source).read_text("utf-8"))
        files.append(File.generated(config, page, content=text))
    return files


def helps() -> Iterator[tuple[str, str]]:
    """Every command in the order of the work: its name and its help."""
    import click

    from faceguide.__main__ import GROUPS, main

    def walk(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
        yield context.command_path, command.get_help(context)
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                child = command.get_command(context, name)
                assert child is not None
                yield from walk(child, click.Context(child, info_name=name, parent=context))

    for name in GROUPS:
        group = main.get_command(click.Context(main), name)
        assert group is not None
        settings = {**group.context_settings, "max_content_width": WIDTH, "terminal_width": WIDTH}
        yield from walk(group, click.Context(group, info_name=name, **settings))


def commands_page() -> str:
    """docs/commands.md as the commands of this checkout have it."""
    parts = [
        "# Commands",
        "What `--help` of each command prints. `python docs/site.py` writes this page.",
    ]
    for name, text in helps():
        level = "##" if " " not in name else "###"
        parts.append(f"{level} {name}\n\n```text\n{_stripped(text)}\n```")
    return "\n\n".join(parts) + "\n"


def _stripped(text: str) -> str:
    return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE).strip("\n")


if __name__ == "__main__":
    COMMANDS.write_text(commands_page(), "utf-8")
