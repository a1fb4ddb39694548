"""Copies of the votes in a dataset repository, for a Space, whose disk is wiped when it restarts."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from sr_core.vote_exports import votes_parquet
from sr_core.votes import VoteStore

SPACE, REPOSITORY, TOKEN = "SPACE_ID", "SR_VOTES_REPO", "HF_TOKEN"
"""Environment variables: set on every Space; the dataset repository, as OWNER/NAME; a token that may write there."""
EVERY_S = 300.0
"""Votes are copied no more often than that."""


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
    """Copies votes in the background after they have changed."""

    def __init__(
        self, store: VoteStore, repository: Repository, *, upload: Upload = hub_upload, every_s: float | int = EVERY_S
    ) -> None:
        self.repository = repository
        self._store, self._upload, self._every_s = store, upload, every_s
        self._changed = threading.Event()
        threading.Thread(target=self._loop, name="share-votes", daemon=True).start()

    def changed(self) -> None:
        """Say that there is something new to copy; returns at once."""
        self._changed.set()

    def _loop(self) -> None:
        while True:
            self._changed.wait()
            self._changed.clear()
            try:
                share_votes(self._store, self.repository, self._upload)
            except OSError as error:
                logging.getLogger(__name__).warning("%s; it is tried again in %d s", error, self._every_s)
                self._changed.set()
            time.sleep(self._every_s)
