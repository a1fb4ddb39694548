"""The tab Vote: blind ballots over the runs in view, and what the votes say."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import gradio as gr

from sr_core.ballots import Draw, Pool, draw, history, pairs_left, pool, run_key, show_pictures
from sr_core.errors import InputError, SRError
from sr_core.runs import Run
from sr_core.ui.explorer.ballot_view import ballot_value, revealed_value, said
from sr_core.ui.explorer.section import FILES, LIGHT
from sr_core.ui.explorer.vote_results import NUM_RESULTS, build_results, results
from sr_core.ui.pictures import file_url
from sr_core.ui.theme import static_text
from sr_core.ui.visits import Shown, Visit, VisitStore
from sr_core.ui.words import in_words
from sr_core.vote_exports import pickapic_parquet, votes_parquet
from sr_core.vote_sharing import VoteSharing, shared_repository
from sr_core.vote_statistics import counted
from sr_core.votes import NUM_SHOWN, Answer, Ballot, Mode, Viewing, Vote, VoteStore, is_fleeting, new_voter, voter_key

STORAGE_KEY, STORAGE_SECRET = "sr-reward-explorer-voter-1", "a-random-id-and-no-name"
Scope = Literal["run", "all"]
_NEEDS = {
    "pair": "Voting takes a run with at least two restored candidates.",
    "four": "Four at once take a run with at least four restored candidates; two at once need two.",
}


@dataclass
class Session:
    """Where one visit stands in its voting."""

    scope: Scope = "run"
    mode: Mode = "pair"
    ballot: Ballot | None = None
    """The open ballot on screen."""
    told: list[Vote] = field(default_factory=list)
    """The votes whose pictures are named on screen, oldest first; none while it is blind."""
    voter: str | None = None
    """The random id that the browser keeps."""
    cast: list[Ballot] = field(default_factory=list)
    """What this visit has voted on, which can be taken back from the last."""
    notice: str = ""


class VotingEvents:
    """What happens on the tab, over one store of visits."""

    def __init__(self, visits: VisitStore, environment: Mapping[str, str]) -> None:
        self._visits = visits
        self._environment = environment

    @cached_property
    def store(self) -> VoteStore:
        """The votes of this server, in a file that no browser may fetch; made when first needed."""
        return VoteStore(self._visits.votes_file)

    @cached_property
    def sharing(self) -> VoteSharing | None:
        """What copies votes to a dataset repository, on a Space that names one, until the visits are cleared."""
        repository = shared_repository(self._environment)
        if isinstance(repository, str):
            return None
        sharing = VoteSharing(self.store, repository)
        self._visits.closing.append(sharing.close)
        return sharing

    def act(self, event: gr.EventData, voter: str | None, request: gr.Request) -> list[Any]:
        """Answer a key or a button of the ballot; returns the voter's id, the ballot and the results."""
        visit = self._visits.visit(request.session_hash)
        session = session_of(visit)
        session.voter, session.notice = voter or session.voter, ""
        action = str(getattr(event, "act", ""))
        try:
            if action not in _ACTIONS:
                raise InputError(f"an action must be one of {', '.join(_ACTIONS)}, got {action[:20]!r}")
            _ACTIONS[action](self, visit, session, event)
        except SRError as error:
            # Said beside the ballot, which stays on screen.
            session.notice = f"That does not work: {error}."
        value = self._value(visit, session)
        changed = action in _CHANGING
        if changed and self.sharing is not None:
            self.sharing.changed()
        same = action == "next" or (action == "vote" and not session.told)
        return [session.voter, value, *([gr.skip()] * NUM_RESULTS if same else self.results(visit))]

    def _deal(self, visit: Visit, session: Session, event: gr.EventData) -> None:
        """Keep the ballot on screen where it can still be answered, else draw one."""
        del event
        runs = {run_key(shown.run): shown for shown in in_scope(visit, session.scope)}
        kept = session.told[-1].ballot if session.told else session.ballot
        if kept is None or kept.run not in runs or kept.mode != session.mode:
            self._draw(visit, session)

    def _next(self, visit: Visit, session: Session, event: gr.EventData) -> None:
        """Draw a new ballot; one that is open stays."""
        del event
        if session.ballot is None:
            self._draw(visit, session)

    def _set(self, visit: Visit, session: Session, event: gr.EventData) -> None:
        """Choose the photos and how many pictures are shown at once."""
        scope: Any = getattr(event, "scope", None)
        mode: Any = getattr(event, "mode", None)
        if scope not in get_args(Scope) or mode not in NUM_SHOWN:
            raise InputError(f"a ballot must be of run or all, pair or four, got {scope!r} and {mode!r}")
        changed = (session.scope, session.mode) != (scope, mode)
        session.scope, session.mode = scope, mode
        if changed:
            self._draw(visit, session)

    def _draw(self, visit: Visit, session: Session) -> None:
        runs = {run_key(shown.run): shown.run for shown in in_scope(visit, session.scope)}
        votes = self.store.votes(runs)
        past = history(votes, None if session.voter is None else voter_key(session.voter))
        seed = f"{session.voter or visit.folder.name} {len(votes)}"
        drawn: Draw | None = draw([pool(run) for run in runs.values()], past, session.mode, seed)
        session.ballot, session.told = None, []
        if drawn is not None:
            pictures = show_pictures(runs[drawn.run], drawn.indices)
            session.ballot = self.store.issue(drawn.run, session.mode, pictures)

    def _vote(self, visit: Visit, session: Session, event: gr.EventData) -> None:
        """Store an answer and draw the next ballot blind; after the last pair, say who was who.

        The voter's id is made with the first answer.
        """
        if session.ballot is None or getattr(event, "token", None) != session.ballot.token:
            raise InputError("a vote must be on the ballot that is on screen; press N for the next one")
        kind: Any = getattr(event, "kind", None)
        answer = Answer(kind, getattr(event, "best", None), getattr(event, "worst", None))
        viewing = Viewing(getattr(event, "saw_input", None), getattr(event, "zoom", None))
        session.voter = session.voter or new_voter()
        vote = self.store.cast(session.ballot.token, session.voter, answer, viewing)
        session.cast.append(vote.ballot)
        session.notice = f"Stored: {said(vote)}"
        runs = runs_in_scope(visit, session.scope)
        past = history(self.store.votes(map_keys(runs)), voter_key(session.voter))
        if pairs_left([pool(run) for run in runs], past) == 0:
            self._tell(visit, session)
        if not session.told:
            self._draw(visit, session)

    def _reveal(self, visit: Visit, session: Session, event: gr.EventData) -> None:
        """Say who was who on every vote of this voter that is still blind."""
        del event
        self._tell(visit, session)
        if not session.told:
            raise InputError("there must be a vote whose pictures are not named yet")

    def _tell(self, visit: Visit, session: Session) -> None:
        told = [] if session.voter is None else self.store.reveal(session.voter, self._keys(visit, session))
        if told:
            session.ballot, session.told = None, told

    def _undo(self, visit: Visit, session: Session, event: gr.EventData) -> None:
        """Take the last vote of this visit back; its pictures come again at once unless they were named."""
        del event
        if not session.cast or session.voter is None:
            raise InputError("there must be a vote of this visit to take back")
        last = session.cast.pop()
        vote = next((vote for vote in self.store.votes([last.run]) if vote.ballot == last), None)
        if vote is None or not self.store.withdraw(last.token, session.voter):
            raise InputError("the last vote must still be there to be taken back")
        session.notice = "Your last vote is taken back."
        if vote.revealed:
            session.notice += " You saw who was who: another answer on those pictures counts in no figure."
            session.told = [other for other in session.told if other.ballot != last]
            if session.ballot is None and not session.told:
                self._draw(visit, session)
        elif last.run in self._keys(visit, session) and last.mode == session.mode:
            session.ballot = self.store.issue(last.run, last.mode, last.shown)
            session.told = []

    def _forget(self, visit: Visit, session: Session, event: gr.EventData) -> None:
        """Delete everything that this voter left on the server, on whatever run, and the id itself."""
        del event
        count = 0 if session.voter is None else self.store.forget(session.voter)
        session.voter, session.cast, session.told = None, [], []
        session.notice = f"{count} {'vote' if count == 1 else 'votes'} and your random id are deleted."
        if session.ballot is None:
            self._draw(visit, session)

    def _value(self, visit: Visit, session: Session) -> dict[str, Any]:
        """Return everything that the ballot's widget shows."""
        scope = in_scope(visit, session.scope)
        runs = {run_key(shown.run): shown for shown in scope}
        pools = [pool(shown.run) for shown in runs.values()]
        votes = self.store.votes(runs)
        value: dict[str, Any] = {"stage": "none", "words": _NEEDS[session.mode]}
        ballot = session.ballot
        if session.told and session.told[-1].ballot.run in runs:
            value = revealed_value(visit, runs, session.told)
        elif ballot is not None and ballot.run in runs:
            value = ballot_value(visit, runs[ballot.run], ballot)
        elif not scope:
            value["words"] = "Restore a photo first, or open a run under Runs; then vote on its candidates here."
        return value | {
            "scope": session.scope,
            "mode": session.mode,
            "num_runs": len(visit.shown),
            "progress": progress(pools, votes, session),
            "notice": session.notice,
            "can_undo": bool(session.cast),
            "consent": self._consent(),
            "num_mine": 0 if session.voter is None else self.store.num_votes(session.voter),
            "num_blind": sum(waiting(vote, session) for vote in votes),
        }

    def _consent(self) -> str:
        end = " or this Space restarts" if is_fleeting(self._environment) else ""
        words = (
            f"Votes are stored on this server until you delete them{end}, under a random id that is kept in this "
            "browser. Who opens a run by its "
            "link sees its figures and can save its votes: what was shown and chosen, if the input was looked at, how "
            "far it was enlarged, the day, and a made-up name per voter that is another one on every run."
        )
        if self.sharing is not None:
            words += (
                f" All of it, without pictures, is copied to the dataset {self.sharing.repository.name}; a copy made "
                "there cannot be called back: votes deleted here are gone from its newest version only."
            )
        return words

    def _keys(self, visit: Visit, session: Session) -> list[str]:
        return map_keys(runs_in_scope(visit, session.scope))

    def _votes(self, visit: Visit) -> list[Vote]:
        """Return the votes in scope, by whomever they are, without those that would tell this voter who was who."""
        session = session_of(visit)
        return [vote for vote in self.store.votes(self._keys(visit, session)) if not waiting(vote, session)]

    def results(self, visit: Visit) -> list[Any]:
        """Return what the votes on the runs in scope say."""
        session = session_of(visit)
        return results(runs_in_scope(visit, session.scope), self._votes(visit), session.scope)

    def save_votes(self, request: gr.Request) -> dict[str, str]:
        """Write every vote in scope as Parquet and hand its address to the browser."""
        return self._save(request, "votes.parquet", lambda _, votes: votes_parquet(votes))

    def save_pickapic(self, request: gr.Request) -> dict[str, str]:
        """Write the pairs that the votes decide in Pick-a-Pic's columns and hand their address to the browser."""
        return self._save(request, "votes_pickapic.parquet", pickapic_parquet)

    def _save(self, request: gr.Request, name: str, encode: Any) -> dict[str, str]:  # noqa: ANN401
        visit = self._visits.visit(request.session_hash)
        runs = runs_in_scope(visit, session_of(visit).scope)
        with in_words():
            content = encode(runs, self._votes(visit))
        path = visit.new_download_folder() / name
        path.write_bytes(content)
        return {"address": file_url(path), "name": name}


_ACTIONS = {
    "deal": VotingEvents._deal,
    "next": VotingEvents._next,
    "set": VotingEvents._set,
    "vote": VotingEvents._vote,
    "reveal": VotingEvents._reveal,
    "undo": VotingEvents._undo,
    "forget": VotingEvents._forget,
}
_CHANGING = ("vote", "undo", "forget")
"""Actions after which the figures are others."""


def session_of(visit: Visit) -> Session:
    """Return where a visit stands in its voting."""
    return visit.choices.setdefault(VoteSection.name, Session())


def in_scope(visit: Visit, scope: Scope) -> list[Shown]:
    """Return the run on screen, or all runs of the visit, as far as they are finished."""
    shown = visit.shown if scope == "all" else [visit.on_screen] if visit.on_screen is not None else []
    return [one for one in shown if one.finished]


def runs_in_scope(visit: Visit, scope: Scope) -> list[Run]:
    """Return the runs that ballots and figures are about."""
    return [shown.run for shown in in_scope(visit, scope)]


def map_keys(runs: list[Run]) -> list[str]:
    """Return the names under which votes on runs are stored."""
    return [run_key(run) for run in runs]


def waiting(vote: Vote, session: Session) -> bool:
    """Return whether a vote counts and is this voter's own, who has not been told yet who was who on it."""
    own = session.voter is not None and vote.voter == voter_key(session.voter)
    return own and not vote.revealed and not vote.withdrawn


def progress(pools: list[Pool], votes: list[Vote], session: Session) -> str:
    """Return in words how far this voter has come."""
    who = None if session.voter is None else voter_key(session.voter)
    mine = sum(vote.voter == who for vote in counted(votes))
    left = pairs_left(pools, history(votes, who))
    where = "this photo" if session.scope == "run" else "these photos"
    pairs = "no pair left that you have not seen" if left == 0 else f"{left} {'pair' if left == 1 else 'pairs'} left"
    return f"{mine} {'vote' if mine == 1 else 'votes'} by you on {where}; {pairs}"


class VoteSection:
    """Lays out the tab and fills it for the runs in view."""

    name = "vote"
    label = "Vote"

    def __init__(self) -> None:
        self._events: dict[Path, VotingEvents] = {}

    def build(self, store: VisitStore) -> list[Any]:
        """Lay out the ballot, the results below it and their downloads, and wire their events."""
        events = self._events[store.root] = VotingEvents(store, os.environ)
        with gr.Column(elem_id="sr-vote"):
            voter = gr.BrowserState(None, storage_key=STORAGE_KEY, secret=STORAGE_SECRET)
            ballot = gr.HTML(
                None,
                html_template=static_text("voting.html"),
                js_on_load=static_text("voting.js"),
                elem_id="sr-vote-ballot",
                apply_default_css=False,
            )
            shown, saves = build_results()
            save = gr.HTML(None, html_template="", js_on_load=static_text("save.js"), elem_id="sr-vote-save")
        ballot.click(events.act, voter, [voter, ballot, *shown], trigger_mode="multiple", **LIGHT)
        saves[0].click(events.save_votes, None, save, **FILES)
        saves[1].click(events.save_pickapic, None, save, **FILES)
        return [ballot, *shown]

    def show(self, visit: Visit) -> list[Any]:
        """Ask the browser for its voter's id, with which the ballot is then drawn and the results are counted."""
        del visit
        return [{"stage": "ask", "nonce": new_voter()}, *[gr.skip()] * NUM_RESULTS]
