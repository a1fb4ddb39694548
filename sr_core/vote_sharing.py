"""Copies of the votes in a dataset repository, for a Space, whose disk is wiped when it restarts."""

import logging
import threading
from collections.abc import Callable, Mapping
from typing import NamedTuple

from sr_core.vote_exports import votes_parquet
from sr_core.votes import VoteStore

SPACE, REPOSITORY, TOKEN = "SPACE_ID", "SR_VOTES_REPO", "HF_TOKEN"
"""Environment variables: set on every Space; the dataset repository, as OWNER/NAME; a token that may write there."""
EVERY_S = 300.0
"""Votes are copied no more often than that."""
CLOSE_S = 15.0
"""How long a server that ends waits for the last copy."""
_LOG = logging.getLogger(__name__)


class Repository(NamedTuple):
    """Where the copies go."""

    name: str
    token: str


Upload = Callable[[Repository, str, bytes], None]
"""Puts content at a path of the repository, in place of what was there; raises OSError where it could not."""


def shared_repository(environment: Mapping[str, str]) -> Repository | str:
    """Return where votes are copied to, or what is missing, in words."""
    missing = [name for name in (SPACE, REPOSITORY, TOKEN) if not environment.get(name)]
    if missing:
        return f"votes stay on this server: {', '.join(missing)} must be set to copy them to a dataset repository"
    return Repository(environment[REPOSITORY], environment[TOKEN])


def hub_upload(repository: Repository, path: str, content: bytes) -> None:
    """Put a file into a dataset repository of the Hugging Face Hub; a new one is private."""
    from huggingface_hub import HfApi, errors

    hub = HfApi(token=repository.token)
    try:
        hub.create_repo(repository.name, repo_type="dataset", private=True, exist_ok=True)
        hub.upload_file(path_or_fileobj=content, path_in_repo=path, repo_id=repository.name, repo_type="dataset")
    # HTTPError is the library's own client's, whichever that is; it is not listed among the names it exports.
    except (errors.HTTPError, errors.HFValidationError) as error:  # type: ignore[attr-defined]
        raise ConnectionError(f"{repository.name} did not take the votes: {error}") from error


def share_votes(store: VoteStore, repository: Repository, upload: Upload) -> None:
    """Copy all votes of a store, without pictures and without what opens a run, to one file of its own.

    The file is written anew, so votes that were deleted here are gone there.
    """
    upload(repository, f"data/votes-{store.name}.parquet", votes_parquet(store.votes()))


class VoteSharing:
    """Copies votes in the background after they have changed, and what is left when the server ends."""

    def __init__(
        self, store: VoteStore, repository: Repository, *, upload: Upload = hub_upload, every_s: float | int = EVERY_S
    ) -> None:
        self.repository = repository
        self._store, self._upload, self._every_s = store, upload, every_s
        self._pending, self._closing = False, False
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._loop, name="share-votes", daemon=True)
        self._thread.start()

    def changed(self) -> None:
        """Say that there is something new to copy; returns at once."""
        with self._news:
            self._pending = True
            self._news.notify_all()

    def close(self, *, within_s: float | int = CLOSE_S) -> None:
        """Copy what is pending at once, by one last try, and copy nothing after that.

        Returns after `within_s` at the latest; a warning says where the copy did not end by then.
        """
        with self._news:
            self._closing = True
            self._news.notify_all()
        self._thread.join(within_s)
        if self._thread.is_alive():
            _LOG.warning("copying votes to %s did not end within %s s", self.repository.name, within_s)

    def _loop(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._pending or self._closing)
                if not self._pending:
                    return
                self._pending, last = False, self._closing
            copied = self._copy("the server ends" if last else f"it is tried again in {self._every_s} s")
            if last:
                return
            with self._news:
                self._pending = self._pending or not copied
                self._news.wait_for(lambda: self._closing, timeout=self._every_s)

    def _copy(self, otherwise: str) -> bool:
        """Copy the votes and return whether that went well; a warning says why not, and what happens `otherwise`."""
        try:
            share_votes(self._store, self.repository, self._upload)
        # Whatever it was, the thread must live on: without it no later vote would be copied.
        except Exception as error:
            _LOG.warning("copying votes to %s failed, %s: %r", self.repository.name, otherwise, error, exc_info=True)
            return False
        return True
