"""The documentation's code runs and prints what stands below it; its links lead somewhere."""

import contextlib
import importlib.util
import io
import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {page.relative_to(DOCS).as_posix(): page for page in sorted(DOCS.rglob("*.md"))}
# What test_architecture.py runs.
ELSEWHERE = ["architecture.md"]

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)


def blocks(text):
    """The fenced blocks in order: language, code, and the output that stands right below."""
    found = list(FENCE.finditer(text))
    for one, after in itertools.zip_longest(found, found[1:]):
        shown = after and after[1] == "text" and not text[one.end() : after.start()].strip()
        yield one[1], one[2], after[2] if shown else ""


def needs(text):
    """The libraries that the head of a page names."""
    named = re.match(r"---\nneeds: (.*)\n---\n", text)
    return named[1].split() if named else []


def with_code():
    for name, page in PAGES.items():
        text = page.read_text(encoding="utf-8")
        if name not in ELSEWHERE and any(block[0] == "python" for block in blocks(text)):
            missing = [library for library in needs(text) if not importlib.util.find_spec(library)]
            marks = [pytest.mark.skip(f"needs {', '.join(missing)}")] if missing else []
            yield pytest.param(text, id=name, marks=marks)


@pytest.mark.parametrize("text", list(with_code()))
def test_code_prints_what_is_shown(text, tmp_path, monkeypatch):
    """Each page in order, as one session; commands of l2multi too."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for language, code, shown in blocks(text):
        if language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile(code, "page", "exec"), names)
            lines = [line.rstrip() for line in printed.getvalue().splitlines()]
            assert lines == [line.rstrip() for line in shown.splitlines()], code
        elif language == "sh":
            for line in re.findall(r"^l2multi (.*)$", code, re.M):
                from l2multi.cli import main

                assert main(shlex.split(line)) == 0


def anchors(text):
    """What the headings of a page are linked by."""
    text = FENCE.sub("", text)
    for heading in re.findall(r"^#+ (.*)$", text, re.M):
        yield re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip())


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    """Files and headings; and no page loads anything from elsewhere."""
    text = FENCE.sub("", PAGES[name].read_text(encoding="utf-8"))
    for image, link in re.findall(r"(!?)\[[^\]]*\]\(([^)\s]+)\)", text):
        if "://" in link:
            assert not image
            continue
        path, _, anchor = link.partition("#")
        target = (PAGES[name].parent / path).resolve() if path else PAGES[name]
        assert target.is_file(), link
        assert ROOT in target.parents
        if anchor and DOCS in target.parents:
            assert anchor in anchors(target.read_text(encoding="utf-8")), link


def test_a_wrong_page_is_seen():
    """What the tests above read a page by."""
    page = "---\nneeds: no_such\n---\n# A b-c: d\n\n```python\nprint(1)\n```\n\n```text\n1\n```\n"
    assert needs(page) == ["no_such"]
    assert list(anchors(page)) == ["a-b-c-d"]
    apart = page.replace("\n\n```text", "\nWords.\n\n```text")
    for text, shown in ((page, "1\n"), (apart, "")):
        assert next(blocks(text)) == ("python", "print(1)\n", shown)


def test_site(tmp_path):
    """It builds without a warning, where MkDocs is installed: ``pip install --group docs``."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site/reference/index.html").read_text().count('id="l2multi.normalize"') == 1
