"""Links from a page to a file of the repository lead somewhere in the site too.

A page links to ``../tests/test_api.py`` as it lies in a clone. The site gets a page with that file,
or the image itself, under ``source/``. And ``<!-- table: NAME -->`` becomes the table of containers
or of file formats, which the library makes; ``<!-- asv -->`` a link to the pages of asv, where
``asv publish`` has made them, of which the site gets a copy.
"""

import posixpath
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

sys.path.insert(0, str(Path(__file__).parents[1]))

from l2multi import _containers, _formats

TABLES = {"containers": _containers.table, "formats": _formats.table}
TABLE = re.compile(r"^<!-- table: (\w+) -->$", re.M)
ASV = Path(__file__).parents[1] / ".asv" / "html"
HISTORY = '<a href="asv/index.html">The times of each commit that was measured here</a>, by asv.'
LINK = re.compile(r"\]\((\.\./[^)#]+)\)")


def _inside(uri: str, link: str) -> str | None:
    """The path of what a page links to in the repository; None if it is in the documentation."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(uri), link))
    return None if path.startswith("docs/") else path


def _in_site(path: str) -> str:
    """Where the site has a file of the repository."""
    return f"source/{path}" if path.endswith(".png") else f"source/{path}.md"


def on_files(files: Any, config: Any) -> Any:
    """Add what pages link to."""
    root = Path(config.docs_dir).parent
    for page in files.documentation_pages():
        for link in LINK.findall(page.content_string):
            path = _inside(page.src_uri, link)
            if path is None or files.get_file_from_path(_in_site(path)):
                continue
            if path.endswith(".png"):
                added = File.generated(config, _in_site(path), abs_src_path=str(root / path))
            else:
                code, language = (root / path).read_text(encoding="utf-8"), "python"
                if not path.endswith(".py"):
                    language = "text"
                head = f"---\ntitle: {path}\nsearch:\n  exclude: true\nhide: [toc]\n---\n"
                content = f"{head}# {path}\n\n``````{language}\n{code}``````\n"
                added = File.generated(config, _in_site(path), content=content)
            files.append(added)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Point links there, and put in tables."""

    def moved(match: re.Match[str]) -> str:
        path = _inside(page.file.src_uri, match[1])
        if path is None:
            return match[0]
        here = posixpath.dirname(page.file.src_uri)
        return f"]({posixpath.relpath(_in_site(path), here or '.')})"

    markdown = markdown.replace("<!-- asv -->", HISTORY if ASV.is_dir() else "")
    return TABLE.sub(lambda match: TABLES[match[1]](), LINK.sub(moved, markdown))


def on_post_build(config: Any) -> None:
    """Copy the pages of asv."""
    if ASV.is_dir():
        shutil.copytree(ASV, Path(config.site_dir) / "asv", dirs_exist_ok=True)
