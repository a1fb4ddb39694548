"""Write files so that a reader sees the old content or the whole new one, never a part."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file beside `path` that takes its place, synced to disk, when the block ends well.

    If the block raises, `path` is as before and nothing is left behind.
    """
    # Not tempfile: its files are private (0600) and would stay so after the rename.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Write `path` whole or not at all."""
    with replacing(path) as file:
        file.write(text.encode())
