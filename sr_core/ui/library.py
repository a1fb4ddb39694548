"""Finished runs kept for their links: each under a name that nobody can guess."""

import hashlib
import hmac
import os
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from sr_core.archives import SharedFiles, shared_files
from sr_core.errors import InputError
from sr_core.files import replacing
from sr_core.runs import RUN_FILE, Run, new_run_id

KEEP_S = 24 * 3600.0
"""A run that nobody has opened for so long is deleted."""
_ID = re.compile(r"[\w-]{16,64}", re.ASCII)
_SECRET = ".secret"
"""Lies beside the runs, so that browsers can delete what they made after the server was started anew."""


class RunLibrary:
    """Copies of finished runs; files are shared with the visits by hard links, so a copy costs no room."""

    def __init__(
        self, root: Path, *, keep_s: float | int = KEEP_S, clock: Callable[[], float | int] = time.time
    ) -> None:
        self.root = root
        self.keep_s = keep_s
        self._clock = clock
        self._deleted = set[str]()
        self._lock = threading.RLock()
        """Held while runs come, go or are read: two pages may keep the same run, and the sweeper never rests."""

    def keep(self, run: Run) -> str:
        """Keep a run with its present ranking, in place of an older state of it, and return its name.

        A run of an earlier version has no name yet and gets one. What was deleted meanwhile does not come back.
        Whoever opens its link gets the files that `shared_files` names: none tells where the photo was taken.
        """
        run_id = run.values.get("id")
        if not isinstance(run_id, str) or _ID.fullmatch(run_id) is None:
            run_id = new_run_id()
        with tempfile.TemporaryDirectory(prefix="sr-keep-") as copies:
            self._keep(run_id, run, shared_files(run, Path(copies)))
        return run_id

    def _keep(self, run_id: str, run: Run, shared: SharedFiles) -> None:
        place = self.root / run_id
        with self._lock:
            if run_id in self._deleted:
                return
            self.root.mkdir(parents=True, exist_ok=True)
            aside = Path(tempfile.mkdtemp(prefix=".new-", dir=self.root))
            try:
                _link_files(shared.paths.values(), aside)
                values = {**run.values, "input": shared.content["input"], "id": run_id}
                replace(run, folder=aside, values=values).save()
                if place.is_dir():
                    place.rename(Path(tempfile.mkdtemp(prefix=".old-", dir=self.root)) / "run")
                aside.rename(place)
                self._touch(place)
            finally:
                self._clear_leftovers()

    def holds(self, run_id: str) -> bool:
        """Return whether a run is here."""
        return _ID.fullmatch(run_id) is not None and (self.root / run_id / RUN_FILE).is_file()

    def look(self, run_id: str) -> Run:
        """Return a kept run where it lies, to be read only; raises InputError if it is not here any more."""
        with self._lock:
            return Run.open(self._place(run_id))

    def _place(self, run_id: str) -> Path:
        if not self.holds(run_id):
            raise InputError("that run is not here any more; a link lasts while its run is kept")
        return self.root / run_id

    def owner_key(self, run_id: str) -> str:
        """Return what the browser that made a run shows to delete it; its link alone does not allow that."""
        return hmac.new(self._secret(), run_id.encode(), hashlib.sha256).hexdigest()

    def is_owner(self, run_id: str, key: str) -> bool:
        """Return whether `key` is what `owner_key` gave to the maker of a run."""
        return key.isascii() and hmac.compare_digest(self.owner_key(run_id), key)

    def _secret(self) -> bytes:
        path = self.root / _SECRET
        if not path.is_file():
            self.root.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                file.write(secrets.token_bytes(32))
        return path.read_bytes()

    def open(self, run_id: str, folder: Path) -> Run:
        """Put a kept run into `folder` and return it; raises InputError if it is not here any more."""
        with self._lock:
            place = self._place(run_id)
            folder.mkdir(parents=True)
            _link_files(place.iterdir(), folder)
            self._touch(place)
        return Run.open(folder)

    def rerank(self, run_id: str, fidelity_weight: float | int) -> None:
        """Rank a kept run anew; nothing happens where it is not here."""
        with self._lock:
            if self.holds(run_id):
                Run.open(self.root / run_id).reranked(float(fidelity_weight)).save()

    def delete(self, run_id: str) -> None:
        """Delete a kept run at once; its link opens nothing any more."""
        with self._lock:
            if self.holds(run_id):
                self._deleted.add(run_id)
                shutil.rmtree(self.root / run_id)

    def sweep(self) -> None:
        """Delete runs that nobody has opened for long, and what was left over when keeping one broke off."""
        with self._lock:
            self._clear_leftovers()
            for place in self.root.glob("[!.]*/"):
                if self._clock() - place.stat().st_mtime > self.keep_s:
                    shutil.rmtree(place, ignore_errors=True)

    def _clear_leftovers(self) -> None:
        for kind in (".new-*/", ".old-*/"):
            for place in self.root.glob(kind):
                shutil.rmtree(place, ignore_errors=True)

    def _touch(self, place: Path) -> None:
        now = float(self._clock())
        os.utime(place, (now, now))


def _link_files(paths: Iterable[Path], target: Path) -> None:
    """Link files into a folder; those of a run are replaced, never changed in place."""
    for path in paths:
        try:
            os.link(path, target / path.name)
        except OSError:
            shutil.copyfile(path, target / path.name)
