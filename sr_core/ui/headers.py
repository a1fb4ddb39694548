"""Response headers that keep a browser careful, on everything that the page serves, and what it does not serve."""

import os
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from sr_core.runs import RUN_FILE
from sr_core.ui.visits import VIEW_SUFFIX

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# Gradio's page needs inline and evaluated scripts; nothing may come from, or go to, another host.
POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "frame-ancestors 'self' https://huggingface.co https://*.hf.space",
    )
)
HEADERS = {
    b"content-security-policy": POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
}


class CarefulHeaders:
    """ASGI middleware that adds the headers to every HTTP response."""

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on and complete its response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def complete(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS.items()]
            await send(message)

        await self._app(scope, receive, complete)


class OriginalsStayHere:
    """ASGI middleware that refuses a visit's run.json and the photos as they were handed in.

    The page shows pictures made of them, which lie in the `view_folder` of each run; `root` holds the visits.
    """

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]], root: Path) -> None:
        self._app = app
        self._root = root.resolve()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with 403."""
        if scope["type"] != "http" or not self._is_original(scope["path"]):
            await self._app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 403, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    def _is_original(self, path: str) -> bool:
        _, is_file, given = path.partition("/file")
        file = Path(os.path.realpath(given[1:]))
        if not is_file or not file.is_relative_to(self._root):
            return False
        name, inside = file.name.casefold(), len(file.relative_to(self._root).parts) == 3
        is_kept_back = name == RUN_FILE or name.startswith(("input.", "reference."))
        return inside and is_kept_back and file.parent.suffix != VIEW_SUFFIX
