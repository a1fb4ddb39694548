"""The page's entry point, also a Space's app_file: builds the page and serves it."""

import os
import signal
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from starlette.middleware import Middleware

from sr_core.ballots import run_key
from sr_core.commands import quieten_libraries, run_commands
from sr_core.limits import MAX_UPLOAD_BYTES
from sr_core.runs import Run
from sr_core.ui.explorer.chart import PLOTLY_FOLDER
from sr_core.ui.headers import CarefulHeaders, OriginalsStayHere
from sr_core.ui.page import build_page
from sr_core.ui.theme import page_theme, static_text, style_sheets
from sr_core.ui.visits import VisitStore
from sr_core.votes import RUN_ROOT, VoteStore, lasting_file, store_files

SWEEP_S = 60.0
MAX_WAITING = 20
"""Runs that may wait for their turn; the next visitor is asked to come back."""


def launch_options(store: VisitStore) -> dict[str, Any]:
    """Return how the page is served: what visitors may reach, and how it looks."""
    return {
        "theme": page_theme(),
        "css": style_sheets(),
        "js": static_text("explorer.js"),
        "max_file_size": MAX_UPLOAD_BYTES,
        "allowed_paths": [str(store.root), str(PLOTLY_FOLDER)],
        "blocked_paths": [*map(str, (store.library.root, store.private, *store_files(store.votes_file)))],
        "show_error": False,
        "strict_cors": True,
        "run_history": False,
        "ssr_mode": False,
        "enable_monitoring": False,
        "mcp_server": True,
        "footer_links": ["api"],
        "app_kwargs": {"middleware": [Middleware(CarefulHeaders), Middleware(OriginalsStayHere, root=store.root)]},
    }


def named(run: Run) -> Run:
    """Return a run with an id: one of an earlier version gets the same at every start, so that its votes are found."""
    return replace(run, values={"id": run_key(run), **run.values})


def serve(root: Path, runs: Sequence[Path] = (), votes_file: Path | None = None) -> None:
    """Serve the page until it is interrupted; visitors' runs live below `root`, each visit in its own folder.

    Each of `runs`, folders with run.json, is opened for the page and its link printed. Votes lie in `votes_file`, or
    below `root`. Raises InputError if one of `runs` is no run or `votes_file` no file of votes.
    """
    quieten_libraries()
    opened = [named(Run.open(folder.resolve())) for folder in runs]
    root.mkdir(parents=True, exist_ok=True)
    store = VisitStore(root.resolve(), votes_file=votes_file)
    VoteStore(store.votes_file)
    links = [(run.folder.name, store.library.keep(run)) for run in opened]
    page = build_page(store)
    page.queue(max_size=MAX_WAITING)
    store.sweep_every(SWEEP_S)
    everywhere = "0.0.0.0" if "SPACE_ID" in os.environ else "127.0.0.1"
    name = os.environ.get("GRADIO_SERVER_NAME", everywhere)
    port = int(os.environ.get("GRADIO_SERVER_PORT", "7860"))
    for run, run_id in links:
        typer.echo(f"{run}: http://{name}:{port}/?run={run_id}")
    try:
        page.launch(server_name=name, server_port=port, **launch_options(store))
    finally:
        store.clear()


def serve_page(
    runs: Annotated[list[Path] | None, typer.Argument(help="Run folders to open; their links are printed.")] = None,
) -> None:
    """Serve on 127.0.0.1:7860, on a Space on every address; SR_RUN_ROOT names another place for runs.

    Votes lie with the runs there, else in the user's data folder; SR_VOTES_FILE names another file for them.
    """
    chosen, votes_file = os.environ.get(RUN_ROOT), lasting_file(os.environ)
    if chosen:
        serve(Path(chosen), runs or (), votes_file)
        return
    with tempfile.TemporaryDirectory(prefix="sr-runs-", ignore_cleanup_errors=True) as folder:
        serve(Path(folder), runs or (), votes_file)


def main() -> None:
    """Read the command line and serve; exit 2 with one line if a folder holds no run.

    SIGTERM, with which a Space is stopped, ends it as Ctrl+C does: after a last copy of the votes.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    command = typer.Typer(add_completion=False, rich_markup_mode=None)
    command.command()(serve_page)
    run_commands(command, "app.py")


if __name__ == "__main__":
    main()
