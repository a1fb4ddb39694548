"""Who is visiting: one private folder, one stop signal and the runs of one open page."""

import logging
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sr_core.errors import InputError
from sr_core.job import Job
from sr_core.restorer import MAX_CANDIDATES
from sr_core.runs import CandidateRecord, Run
from sr_core.ui.library import RunLibrary

IDLE_S = 3600.0
"""A visit that nobody has touched for so long is forgotten."""
CLOSED_S = 300.0
"""Time in which a page that lost its connection may come back to its runs."""
MAX_RUNS = 24
"""Runs that one visit keeps; the oldest are deleted."""
VIEW_SUFFIX = ".view"
"""Ends the name of a folder with pictures that only the page needs."""
MAX_DOWNLOADS = 4
"""Folders of each kind of file made for a visitor that one visit keeps; the oldest are deleted."""


def job_of(run: Run) -> Job:
    """Return the settings of a run that was made elsewhere, as far as it says them."""
    values, drawn = run.values, [record for record in run.candidates if record.seed is not None]
    return Job(
        num_candidates=min(MAX_CANDIDATES, max(1, len(drawn))),
        seed=drawn[0].seed if drawn and drawn[0].seed is not None else 0,
        num_steps=values["steps"],
        sampler=values["sampler"],
        size=tuple(values["size"]),
        color=values["color"],
        metric_set=values["metric_set"],
        fidelity_weight=values["fidelity_weight"],
        backbone=values["backbone"],
        adapter=values["adapter"],
        compare_adapter=values.get("compare_adapter"),
        guidance=values.get("guidance"),
        prompt=values.get("prompt"),
        negative_prompt=values.get("negative_prompt"),
        start=values.get("start"),
        strength=values.get("strength"),
        tile=values.get("tile"),
    )


@dataclass(kw_only=True)
class Shown:
    """One run of a visit with the settings that made it."""

    run: Run
    job: Job
    message: str
    """Where it stands, in words."""
    seconds: float | None = None
    """How long it took; None while it goes on."""

    @property
    def view_folder(self) -> Path:
        """Where pictures lie that only the page needs: previews and the enlarged input."""
        return self.run.folder.with_name(f"{self.run.folder.name}{VIEW_SUFFIX}")

    @property
    def key(self) -> str:
        """Names the run among those of its visit."""
        return self.run.folder.name

    @property
    def name(self) -> str:
        """The photo's file name."""
        return str(self.run.values["input"]["name"])

    @property
    def finished(self) -> bool:
        """Whether nothing more will be drawn."""
        return self.run.values["status"] in ("done", "stopped")


@dataclass(kw_only=True)
class Visit:
    """Everything that one open page has made; it lives on the server and no other page can reach it."""

    folder: Path
    stop: threading.Event = field(default_factory=threading.Event)
    shown: list[Shown] = field(default_factory=list)
    current: int = 0
    """Place in `shown` of the run on screen."""
    picked: int | None = None
    """Index of the candidate chosen by hand; None follows the best."""
    fidelity_weight: float = 0.5
    """0 is vivid, 1 faithful; the slider's last word."""
    explore_weight: float | None = None
    """What Explore's slider shows, in the same unit; None before the tab was opened."""
    view: str = ""
    """Name of the view that is open under Explore; empty is the first."""
    choices: dict[str, Any] = field(default_factory=dict)
    """What a view was set to by hand, by its name."""
    opened: set[str] = field(default_factory=set)
    """Ids of the runs that came by a link; all others were made here."""
    owner_keys: dict[str, str] = field(default_factory=dict)
    """By run id, what proves that this browser made a run in an earlier visit."""
    remembered: list[str] = field(default_factory=list)
    """Ids of runs that this browser has seen, newest first, as it says itself."""
    forgotten: set[str] = field(default_factory=set)
    """Ids of runs that were taken off its list here."""
    told_off: set[str] = field(default_factory=set)
    """Those of them that the browser was told about."""
    busy: bool = False
    leaving: set[str] = field(default_factory=set)
    """Ids of runs to drop once the work that may read them ends."""
    last_seen: float = 0.0
    _count: int = 0
    _lock: threading.RLock = field(default_factory=threading.RLock)
    """Held while runs are stored, ranked or taken away: a running job and the slider do so at the same time."""

    def new_folder(self, photo: Path) -> Path:
        """Return a fresh folder for the run of a photo."""
        self._count += 1
        stem = re.sub(r"[^\w.-]+", "_", photo.stem).strip("._")[:60] or "photo"
        return self.folder / f"{self._count:03d}-{stem}"

    def new_download_folder(self, kind: str = "downloads") -> Path:
        """Return a fresh folder for a file that is made for the visitor; only the last of a kind stay."""
        with self._lock:
            self._count += 1
            folder = self.folder / kind / f"{self._count:08d}"
            folder.mkdir(parents=True)
            for old in sorted(folder.parent.iterdir())[:-MAX_DOWNLOADS]:
                shutil.rmtree(old, ignore_errors=True)
            return folder

    def put(self, run: Run, job: Job, message: str) -> Shown:
        """Store a run, or a newer state of one, ranked by the slider's last word; only a new one takes the screen."""
        with self._lock:
            if run.values.get("fidelity_weight") != self.fidelity_weight:
                run = run.reranked(self.fidelity_weight)
            for shown in self.shown:
                if shown.run.folder == run.folder:
                    shown.run, shown.message = run, message
                    return shown
            while len(self.shown) >= MAX_RUNS:
                oldest = self.shown.pop(0)
                shutil.rmtree(oldest.run.folder, ignore_errors=True)
                shutil.rmtree(oldest.view_folder, ignore_errors=True)
            self.shown.append(Shown(run=run, job=job, message=message))
            self.current, self.picked = len(self.shown) - 1, None
            return self.shown[-1]

    def show_run(self, key: str) -> Shown:
        """Put another run on screen; raises InputError if it is not here any more."""
        with self._lock:
            for place, shown in enumerate(self.shown):
                if shown.key == key:
                    self.current, self.picked = place, None
                    return shown
        raise InputError("that run is not here any more")

    def open_run(self, library: RunLibrary, run_id: str) -> Shown:
        """Put a kept run on screen, as it is here already or copied from the library.

        The first run of a visit brings its place of the slider, so that it opens as it was ranked.
        Raises InputError if it is not there any more.
        """
        with self._lock:
            for shown in self.shown:
                if shown.run.values.get("id") == run_id:
                    return self.show_run(shown.key)
            self._count += 1
            run = library.open(run_id, self.folder / f"{self._count:03d}-opened")
            if not self.shown:
                self.fidelity_weight = run.values["fidelity_weight"]
            self.opened.add(run_id)
            return self.put(run, job_of(run), "opened")

    def drop_run(self, run_id: str) -> None:
        """Forget a run and delete this visit's files of it; the run on screen stays, if it is another one.

        While the visit works on something, that waits until the work ends.
        """
        with self._lock:
            if self.busy:
                self.leaving.add(run_id)
            else:
                self._drop(run_id)

    def _drop(self, run_id: str) -> None:
        current = self.on_screen
        for shown in [shown for shown in self.shown if shown.run.values.get("id") == run_id]:
            self.shown.remove(shown)
            shutil.rmtree(shown.run.folder, ignore_errors=True)
            shutil.rmtree(shown.view_folder, ignore_errors=True)
        if current in self.shown:
            self.current = self.shown.index(current)
        else:
            self.current, self.picked = max(0, len(self.shown) - 1), None
        self.remembered = [other for other in self.remembered if other != run_id]

    @property
    def on_screen(self) -> Shown | None:
        """The run that is looked at; None before the first."""
        return self.shown[self.current] if self.shown else None

    @property
    def candidate(self) -> CandidateRecord | None:
        """The candidate that is looked at: the picked one, else the best."""
        if self.on_screen is None:
            return None
        run = self.on_screen.run
        for record in run.candidates:
            if record.index == self.picked and record.file is not None:
                return record
        return run.best

    def rank_by(self, fidelity_weight: float) -> None:
        """Rank every run anew from the scores that it has; nothing is drawn."""
        with self._lock:
            self.fidelity_weight = fidelity_weight
            for shown in self.shown:
                shown.run = shown.run.reranked(fidelity_weight)

    def require(self) -> tuple[Shown, CandidateRecord]:
        """Return the run and candidate on screen; raises InputError if there is none."""
        if self.on_screen is None or self.candidate is None:
            raise InputError("there must be a restored photo first; drop one and press Run")
        return self.on_screen, self.candidate

    @contextmanager
    def working(self) -> Iterator[None]:
        """Keep the folder while a run goes on; one run at a time. Raises InputError if one goes on already."""
        with self._lock:
            if self.busy:
                raise InputError("this page restores a photo already; stop it or wait for it")
            self.busy = True
        try:
            yield
        finally:
            with self._lock:
                self.busy = False
                while self.leaving:
                    self._drop(self.leaving.pop())


class VisitStore:
    """All visits, each in a folder whose name cannot be guessed."""

    def __init__(
        self, root: Path, *, idle_s: float | int = IDLE_S, closed_s: float | int = CLOSED_S,
        clock: Callable[[], float | int] = time.monotonic, votes_file: Path | None = None,
    ) -> None:  # fmt: skip
        self.root = root
        self.library = RunLibrary(root / "library")
        self.private = root / "private"
        """For what no browser may fetch, such as a database."""
        self.votes_file = votes_file or self.private / "votes.sqlite"
        """Where votes lie: in `private` or at another place, which may outlast `root`."""
        self.closing: list[Callable[[], None]] = []
        """What is called before everything is deleted, such as a last copy of the votes."""
        self._idle_s, self._closed_s, self._clock = idle_s, closed_s, clock
        self._visits: dict[str, Visit] = {}
        self._lock = threading.Lock()

    def visit(self, session: str | None) -> Visit:
        """Return the visit of a page, made at its first call; None is a caller without a page."""
        with self._lock:
            key = session or secrets.token_hex(16)
            if key not in self._visits:
                folder = self.root / secrets.token_hex(16)
                folder.mkdir(parents=True)
                self._visits[key] = Visit(folder=folder)
            self._visits[key].last_seen = self._clock()
            return self._visits[key]

    def leave(self, session: str | None) -> None:
        """Stop what a closed page was computing, and forget the visit soon unless it comes back."""
        with self._lock:
            visit = self._visits.get(session or "")
            if visit is not None:
                visit.stop.set()
                visit.last_seen = self._clock() - self._idle_s + self._closed_s

    def keep_order(self, visit: Visit) -> None:
        """Let the link of the run on screen open it as it is ranked now, if this visit made it."""
        shown = visit.on_screen
        run_id = None if shown is None else shown.run.values.get("id")
        if run_id is not None and run_id not in visit.opened:
            self.library.rerank(run_id, visit.fidelity_weight)

    def delete_run(self, run_id: str) -> None:
        """Delete a run for everyone at once: its files, its link, and the copies that other pages have open."""
        with self._lock:
            self.library.delete(run_id)
            for visit in self._visits.values():
                visit.drop_run(run_id)

    def sweep(self) -> None:
        """Delete the visits that nobody has touched for long."""
        with self._lock:
            now = self._clock()
            old = [k for k, v in self._visits.items() if not v.busy and now - v.last_seen > self._idle_s]
            for key in old:
                shutil.rmtree(self._visits.pop(key).folder, ignore_errors=True)
        self.library.sweep()

    def sweep_every(self, seconds: float) -> None:
        """Sweep in the background for as long as the process lives."""

        def loop() -> None:
            while True:
                time.sleep(seconds)
                try:
                    self.sweep()
                except OSError:
                    logging.getLogger(__name__).exception("sweeping broke off; it is tried again in %s s", seconds)

        threading.Thread(target=loop, name="sweep-visits", daemon=True).start()

    def clear(self) -> None:
        """Stop and delete everything, after what `closing` holds has been called."""
        while self.closing:
            self.closing.pop()()
        with self._lock:
            for visit in self._visits.values():
                visit.stop.set()
                shutil.rmtree(visit.folder, ignore_errors=True)
            self._visits.clear()
