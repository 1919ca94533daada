"""What the site needs beside its pages: the files of the repository that pages link to, and plain code words.

A page links to a file one folder up, which works wherever the repository is read. In the site such a link
leads to a copy under ``repository/``: a Markdown file becomes a page, a picture is copied, and code is shown
as a page.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(\]\()((?:\.\./)+)([\w./-]+)")
ROLE = re.compile(r":(?:class|func|meth|attr|mod|data|exc):<code>~?([^<]*)</code>")
LANGUAGES = {".py": "python", ".toml": "toml", ".json": "json", ".yml": "yaml"}


def on_files(files: Files, config: Any) -> Files:
    """Add every file of the repository that a page links to, and what those that are pages show."""
    for page in list(files.documentation_pages()):
        for _, up, path in LINK.findall(page.content_string):
            if _is_above(page.src_uri, up):
                _add(path, files, config)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Lead links out of the folder to the copies."""
    source = page.file.src_uri
    if source.startswith("repository/"):
        return markdown

    def inside(link: re.Match[str]) -> str:
        opening, up, path = link.groups()
        if not _is_above(source, up):
            return link[0]
        start = posixpath.dirname(source) or "."
        return opening + posixpath.relpath(_copy(path), start)

    return LINK.sub(inside, markdown)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Show the names that docstrings mark with a role of Sphinx as code."""
    return ROLE.sub(r"<code>\1</code>", html)


def _is_above(source: str, up: str) -> bool:
    """Whether so many steps up lead from a page to the root of the repository."""
    return up.count("../") == source.count("/") + 1


def _copy(path: str) -> str:
    """The place of a file's copy among the pages."""
    target = ROOT / path
    if target.is_dir():
        return f"repository/{path.rstrip('/')}.md"
    return f"repository/{path}" + ("" if target.suffix in {".md", ".svg", ".png"} else ".md")


def _add(path: str, files: Files, config: Any) -> None:
    """Add the copy of one file, unless it is there or there is no such file."""
    target, place = ROOT / path, _copy(path)
    if not target.exists() or files.get_file_from_path(place):
        return
    if target.is_dir():
        names = sorted(item.name for item in target.iterdir() if not item.name.startswith(("_", ".")))
        content = f"# {path}\n\n" + "".join(f"- `{name}`\n" for name in names)
        files.append(File.generated(config, place, content=content))
    elif place == f"repository/{path}":
        files.append(File.generated(config, place, abs_src_path=str(target)))
        if target.suffix == ".md":
            for name in re.findall(r"\]\(([\w./-]+\.(?:svg|png))\)", target.read_text(encoding="utf-8")):
                _add(posixpath.join(posixpath.dirname(path), name), files, config)
    else:
        text = target.read_text(encoding="utf-8").rstrip()
        content = f"# {path}\n\n````{LANGUAGES.get(target.suffix, '')}\n{text}\n````\n"
        files.append(File.generated(config, place, content=content))
