"""Generated pages are up to date; help and errors use the words of the docs."""

from __future__ import annotations

import ast
import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import REPOSITORY

SITE = runpy.run_path(str(REPOSITORY / "docs" / "site.py"))

# Word → what to write instead.
WORDS = {
    r"(?<!-per-)persons?(?!/)": "identity",  # person/photo.jpg is an example, --…-per-person a name
    r"strangers?": "impostor, or not enrolled",
    r"(last|every|each|between|of) saves?": "checkpoint",
    r"arithmetic": "precision",
    r"alone": "only",
    r"anew|again": "rerun, re-render, rebuild",
    r"draws": "random numbers, samples",
    r"go(es)? on": "resume, continue",
    r"beside": "next to",
    r"told": "reported",
    r"nobody": "no identity",
    r"(?<!--)hidden|nothing covers": "occluded",
    r"is no": "is not a, invalid",
}
BANNED = re.compile(rf"\b({'|'.join(WORDS)})\b", re.IGNORECASE)
ROOMS = ("core", "cache", "preprocess", "train", "evaluate")


def sentences(path: Path) -> Iterator[tuple[int, str]]:
    """Texts of a module that a user may read: those with a blank, but for docstrings."""
    tree = ast.parse(path.read_text("utf-8"))
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            continue
        if " " in node.value.strip() and id(node) not in docstrings:
            yield node.lineno, node.value


@pytest.mark.parametrize("room", ROOMS)
def test_messages_use_plain_words(room: str) -> None:
    found = [
        f"{path.relative_to(REPOSITORY)}:{line}: {match[0]!r} in {text!r}"
        for path in sorted((REPOSITORY / room).rglob("*.py"))
        for line, text in sentences(path)
        if (match := BANNED.search(text))
    ]
    assert not found, "\n".join(found)


def test_reports_use_plain_words() -> None:
    for path in (REPOSITORY / "evaluate").rglob("*.html"):
        text = re.sub(r"{{.*?}}|{%.*?%}", "", path.read_text("utf-8"))
        assert not BANNED.search(text), path.name


def test_help_uses_plain_words() -> None:
    found = [
        f"{name}: {match[0]!r}" for name, text in SITE["helps"]() if (match := BANNED.search(text))
    ]
    assert not found


def test_the_command_reference_is_the_help() -> None:
    page = SITE["COMMANDS"].read_text("utf-8")
    assert page == SITE["commands_page"](), "run `python docs/site.py`"


def test_links_of_the_index_lead_to_pages_of_the_site() -> None:
    generated = set(SITE["PAGES"].values())
    for source in SITE["PAGES"]:
        text = SITE["from_docs"]((REPOSITORY / source).read_text("utf-8"))
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            if "://" not in target and target not in generated:
                assert (REPOSITORY / "docs" / target).exists(), f"{source} links to {target}"


def test_every_page_of_docs_is_in_the_menu() -> None:
    menu = (REPOSITORY / "mkdocs.yml").read_text("utf-8")
    for page in (REPOSITORY / "docs").rglob("*.md"):
        assert page.relative_to(REPOSITORY / "docs").as_posix() in menu
