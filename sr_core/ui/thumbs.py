"""Small views of the uploaded photos, as HTML."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from sr_core.errors import SRError
from sr_core.images import read_size
from sr_core.ui.pictures import file_url

SHOWN_BY_BROWSERS = {".png", ".jpg", ".jpeg", ".webp", ".avif", ".bmp", ".gif"}


def render_thumbs(paths: Sequence[Path]) -> str:
    """Return one figure per photo that can be read, with its size."""
    figures = [_figure(path) for path in paths]
    if not any(figures):
        return ""
    kind = "sr-thumbs sr-single" if len(figures) == 1 else "sr-thumbs"
    return f'<div class="{kind}">{"".join(figures)}</div>'


def _figure(path: Path) -> str:
    try:
        width, height = read_size(path)
    except SRError:
        return ""
    name = escape(path.name)
    kind = path.suffix.lower()
    picture = f'<span class="sr-noimage">{escape(kind.lstrip(".").upper())}</span>'
    if kind in SHOWN_BY_BROWSERS:
        picture = f'<img src="{escape(file_url(path))}" alt="{name}">'
    return f'<figure title="{name}">{picture}<figcaption>{width} &times; {height}</figcaption></figure>'
