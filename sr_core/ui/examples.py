"""Example photos for a visitor who has none at hand."""

import base64
from functools import lru_cache
from html import escape
from io import BytesIO
from pathlib import Path

from PIL import Image as PillowImage

from sr_core.assets import ASSETS

NUM_SHOWN = 4
_THUMB = (160, 120)
_KINDS = {".jpg", ".jpeg", ".png", ".webp"}


@lru_cache(maxsize=1)
def example_photos() -> dict[str, Path]:
    """Return the example photos that come with the project, by file name."""
    folder = ASSETS / "examples"
    found = sorted(path for path in folder.glob("*") if path.suffix.lower() in _KINDS)
    return {path.name: path for path in found[:NUM_SHOWN]}


def render_examples() -> str:
    """Return the examples as buttons, their small pictures inside the page."""
    buttons = [
        f'<button type="button" data-name="{escape(name)}" aria-label="Example: {escape(_title(path))}" '
        f'title="{escape(_title(path))}"><img src="{_thumb(path)}" alt=""></button>'
        for name, path in example_photos().items()
    ]
    if not buttons:
        return ""
    return f'<div class="sr-examples"><p>No photo at hand? Try one of these.</p><div>{"".join(buttons)}</div></div>'


def _title(path: Path) -> str:
    return path.stem.replace("_", " ").replace("-", " ")


def _thumb(path: Path) -> str:
    with PillowImage.open(path) as image:
        small = image.convert("RGB")
        small.thumbnail(_THUMB)
    file = BytesIO()
    small.save(file, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
