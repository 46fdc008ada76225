from __future__ import annotations

import ast
import functools
import os
import re
import tomllib
from pathlib import Path

import pytest

from tools import protocol
from zolder.names import Identity
from zolder.san.policies import load_policy

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]


@functools.cache
def said() -> list[str]:
    """Return every sentence in our sources, with an ellipsis wherever a value goes in."""
    found = []
    for path in (ROOT / "src/zolder").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                found.append("".join(str(part) for part in parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"\{\w*\}", "…", node.value))
    return found


def explained() -> list[str]:
    """Return the sentences that docs/operations.md explains."""
    return re.findall(r"^> (.+)$", (DOCS / "operations.md").read_text(), re.MULTILINE)


def test_protocol_is_the_code_s() -> None:
    """The reference in docs/protocol.md is what the code says; `python tools/protocol.py` renews it."""
    text = protocol.PAGE.read_text()
    assert text == protocol.page(text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every link within the project leads to a file, and one to a heading leads to a heading."""
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        headings = re.findall(r"^#+ (.+)$", target.read_text() if anchor else "", re.MULTILINE)
        slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in slugs, link


def test_index_has_every_page() -> None:
    """docs/index.md leads to every page."""
    index = (DOCS / "index.md").read_text()
    assert all(f"({page.name})" in index for page in DOCS.glob("*.md") if page.name != "index.md")


@pytest.mark.parametrize("sentence", explained())
def test_explained_errors_exist(sentence: str) -> None:
    """An error that docs/operations.md explains is one that the code says, word by word."""
    assert any(sentence in text for text in said())


def test_example_of_san_toml(tmp_path: Path) -> None:
    """The example of /etc/zolder/san.toml is a policy that the agent takes."""
    text = (ROOT / "deploy/examples/san.toml").read_text()
    path = tmp_path / "san.toml"
    path.write_text(text)
    path.chmod(0o600)
    for name in tomllib.loads(text)["identity"]:
        assert load_policy(Identity(name), path, owner=os.getuid()).parents
