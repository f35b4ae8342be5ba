"""site: what the site has beside docs: README.md as its first page, CONTRIBUTING.md, and no link to a file outside it.

MkDocs calls the functions ``on_*`` as hooks. The site has no address of the repository, so a link to a file of the
repository becomes the file's name, and an image is copied.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
ROOT_PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages at the root of the repository, and the images that pages show."""
    for name, page in ROOT_PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    for text in [(ROOT / name).read_text(encoding="utf-8") for name in (*ROOT_PAGES, *_pages())]:
        for image, _, target in _LINK.findall(text):
            file = ROOT / target.removeprefix("../")
            if image and file.is_file() and files.get_file_from_path(_copied(file)) is None:
                files.append(File.generated(config, _copied(file), abs_src_path=str(file)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links of the repository into those of the site."""
    at_root = page.file.src_uri in ROOT_PAGES.values()
    folder = ROOT if at_root else ROOT / "docs"
    code = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(
        part if part.startswith("```") else _LINK.sub(lambda one: _linked(one, folder), part) for part in code
    )


def _pages() -> list[str]:
    return [f"docs/{file.name}" for file in sorted((ROOT / "docs").glob("*.md"))]


def _copied(file: Path) -> str:
    return f"images/{file.name}"


def _linked(link: re.Match[str], folder: Path) -> str:
    image, text, target = link.groups()
    path, hash_, anchor = target.partition("#")
    if "://" in target or not path:
        return link[0]
    file = (folder / path).resolve()
    name = str(file.relative_to(ROOT))
    if image:
        return f"![{text}]({_copied(file)})"
    if name in ROOT_PAGES:
        return f"[{text}]({ROOT_PAGES[name]}{hash_}{anchor})"
    if file.parent == ROOT / "docs" and file.suffix in (".md", ".json"):
        return f"[{text}]({file.name}{hash_}{anchor})"
    return f"{text} (`{name}`)" if text.strip("`") != name else f"`{name}`"
