"""Errors that a visitor can mend, as messages on the page."""

from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr

from sr_core.errors import SRError


@contextmanager
def in_words() -> Iterator[None]:
    """Turn an error that a visitor can mend into a message on the page."""
    try:
        yield
    except SRError as error:
        raise gr.Error(str(error), title="That does not work", print_exception=False) from error
