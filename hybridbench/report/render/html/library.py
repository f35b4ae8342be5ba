"""library: the chart library that a page holds, bundled once per version and kept in the user's cache folder.

vl_convert takes 2 to 4 s to bundle Vega, Vega-Lite and Vega-Embed into one script, longer than most pages take. The
script depends on vl_convert alone, so it is kept under that version, and made anew where it cannot be.
"""

from __future__ import annotations

import functools
import tempfile
from importlib.metadata import version
from pathlib import Path

import platformdirs

_ENTRY = "window.vegaEmbed = vegaEmbed;"
_END = "\n/* end of the chart library */\n"
"""The last line of a file that was written whole."""


@functools.cache
def chart_library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script that sets ``vegaEmbed``."""
    path = library_file()
    try:
        kept = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        kept = ""
    return kept if kept.endswith(_END) else _made(path)


def library_file() -> Path:
    """Where the script of the installed version is kept."""
    return platformdirs.user_cache_path("hybridbench") / f"charts-{version('vl-convert-python')}.js"


def _made(path: Path) -> str:
    """The script, bundled now; it is kept where the folder can be written, and no page fails where it cannot."""
    import vl_convert

    script = str(vl_convert.javascript_bundle(_ENTRY)) + _END
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as apart:  # whole or not at all, also by two at once
            part = Path(apart) / path.name
            part.write_text(script, encoding="utf-8")
            part.replace(path)
    except OSError:
        pass
    return script
