"""What the voting page shows of ballots: nothing that tells who is who until the voter asks for it, then everything."""

import shutil
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from sr_core.images import read_output, write_image
from sr_core.rewards.group import score_term
from sr_core.runs import CandidateRecord, Run
from sr_core.ui.explorer.pins import candidate_id, pin_button
from sr_core.ui.pictures import file_url, place, prepare_input
from sr_core.ui.tables import label_of
from sr_core.ui.visits import Shown, Visit
from sr_core.vote_statistics import HYBRID
from sr_core.votes import Ballot, Vote

LETTERS = "ABCD"
FOLDER = "ballots"


def score_label(key: str) -> str:
    """Return the name of a metric, or of the reward, for people."""
    return "Reward" if key == HYBRID else label_of(key)


def blind_pictures(visit: Visit, shown: Shown, ballot: Ballot) -> list[dict[str, str]]:
    """Write the pictures of a ballot under names that tell nothing, and return their addresses in their order.

    Their pixels are the files' own; the recipe that a file carries, with its seed, is left behind.
    """
    folder = visit.folder / FOLDER / ballot.token
    for other in folder.parent.glob("*/"):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    records = {record.index: record for record in shown.run.candidates}
    pictures = []
    for letter, picture in zip(LETTERS, ballot.shown, strict=False):
        path = folder / f"{letter.lower()}.png"
        if not path.is_file():
            _write_blind(shown.run.path(records[picture.candidate]), path)
        pictures.append({"letter": letter, "src": file_url(path)})
    return pictures


def _write_blind(source: Path, path: Path) -> None:
    drawn = read_output(source)
    write_image(path, drawn.pixels, format="png", alpha=drawn.alpha, marked=False, fast=True)


def ballot_value(visit: Visit, shown: Shown, ballot: Ballot) -> dict[str, Any]:
    """Return what the page needs to show a ballot blind."""
    prepare_input(shown)
    width, height = shown.run.values["size"]
    smooth = shown.view_folder / "input_bicubic.png"
    return {
        "stage": "ballot",
        "token": ballot.token,
        "mode": ballot.mode,
        "pictures": blind_pictures(visit, shown, ballot),
        "input": file_url(smooth if smooth.is_file() else shown.view_folder / "input.png"),
        "width": width,
        "height": height,
    }


def revealed_value(visit: Visit, runs: Mapping[str, Shown], votes: Sequence[Vote]) -> dict[str, Any]:
    """Return who was who on some votes: the last one with its pictures and what the metrics say, all of them as a list.

    `runs` holds what is in view by the key of its votes.
    """
    vote = votes[-1]
    shown = runs[vote.ballot.run]
    value = ballot_value(visit, shown, vote.ballot)
    chosen = _chosen(shown.run, vote)
    for picture, record in zip(value["pictures"], chosen, strict=True):
        picture["name"] = record.name
        picture["place"] = place(shown.run, record)
        picture["reward"] = _reward(record)
        picture["label"] = f"Picture {picture['letter']}: {record.label}"
        picture["mark"] = _mark(vote, record)
    value |= {"stage": "revealed", "words": said(vote), "agreement": _agreement_html(shown.run, vote, chosen)}
    value["list"] = _list_html([(runs[one.ballot.run], one) for one in votes if one.ballot.run in runs])
    return value


def _chosen(run: Run, vote: Vote) -> list[CandidateRecord]:
    records = {record.index: record for record in run.candidates}
    return [records[picture.candidate] for picture in vote.ballot.shown]


def _reward(record: CandidateRecord) -> str:
    return "" if record.reward is None else f"reward {record.reward:.3f}"


def _list_html(votes: Sequence[tuple[Shown, Vote]]) -> str:
    """Return every vote with the names behind its letters and a button that compares two of its pictures again."""
    rows = ""
    for number, (shown, vote) in enumerate(votes, start=1):
        chosen = _chosen(shown.run, vote)
        names = "".join(
            f"<li><b>{letter}</b> {escape(record.name)}, "
            f"{escape(', '.join(filter(None, (place(shown.run, record), _reward(record)))))}</li>"
            for letter, record in zip(LETTERS, chosen, strict=False)
        )
        first, last = (candidate_id(record) for record in (chosen[0], chosen[-1]))
        button = pin_button("Compare", last, first, shown.key, spoken=f"Compare the pictures of vote {number}")
        rows += f'<tr><th scope="row">{number}</th><td>{said(vote)}</td><td><ul>{names}</ul></td><td>{button}</td></tr>'
    return (
        '<div class="sr-scroller" tabindex="0" role="region" aria-label="Who was who on each vote">'
        '<table class="sr-numbers"><caption class="sr-hidden">Who was who on each vote</caption><thead><tr>'
        '<th scope="col">Vote</th><th scope="col">Your answer</th><th scope="col">Who was who</th>'
        f'<th scope="col">Again</th></tr></thead><tbody>{rows}</tbody></table></div>'
    )


def said(vote: Vote) -> str:
    """Return a vote in words, as its voter saw the pictures."""
    many = len(vote.ballot.shown) > 2
    if vote.answer.kind == "tie":
        return "You called all four equal." if many else "You called both equal."
    if vote.answer.kind == "bad":
        return "You called all four bad." if many else "You called both bad."
    best, worst = LETTERS[vote.answer.best or 0], LETTERS[vote.answer.worst or 0]
    return f"You chose {best} as the best and {worst} as the worst." if many else f"You chose {best}."


def _mark(vote: Vote, record: CandidateRecord) -> str:
    if vote.answer.kind != "choice":
        return ""
    many = len(vote.ballot.shown) > 2
    if record.index == vote.best:
        return "Your best" if many else "Your choice"
    return "Your worst" if many and record.index == vote.worst else ""


def _agreement_html(run: Run, vote: Vote, chosen: Sequence[CandidateRecord]) -> str:
    """Return the table of what the reward and each metric prefer among the pictures that were shown."""
    columns = _columns(chosen)
    if not columns:
        return ""
    band = float(run.values.get("tie_band") or 0.0)
    letters = LETTERS[: len(chosen)]
    head = "".join(f'<th scope="col">{letter}</th>' for letter in letters)
    rows = ""
    for key, values in columns.items():
        lower = key != HYBRID and score_term(key).lower_is_better
        tolerance = band if key == HYBRID else score_term(key).tolerance
        best = min(values) if lower else max(values)
        equal = max(values) - min(values) <= tolerance
        prefers = "no difference" if equal else letters[values.index(best)]
        cells = "".join(
            f"<td>{'<b>' if value == best and not equal else ''}{_number(key, value)}"
            f"{'</b>' if value == best and not equal else ''}</td>"
            for value in values
        )
        verdict, mark = _verdict(vote, None if equal else values.index(best))
        rows += (
            f'<tr><th scope="row">{escape(score_label(key))}</th><td class="sr-vote-{mark}">{verdict}</td>'
            f"<td>{prefers}</td>{cells}</tr>"
        )
    return (
        '<div class="sr-scroller" tabindex="0" role="region" aria-label="What the metrics prefer">'
        '<table class="sr-numbers"><caption class="sr-hidden">What the metrics prefer</caption><thead><tr>'
        f'<th scope="col">Score</th><th scope="col">With you?</th><th scope="col">Prefers</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _columns(chosen: Sequence[CandidateRecord]) -> Mapping[str, list[float]]:
    """Return the values of the reward and of each metric that all the pictures have."""
    columns: dict[str, list[float]] = {}
    rewards = [record.reward for record in chosen if record.reward is not None]
    if len(rewards) == len(chosen):
        columns[HYBRID] = rewards
    for key in chosen[0].scores:
        if all(key in record.scores for record in chosen):
            columns[key] = [record.scores[key] for record in chosen]
    return columns


def _number(key: str, value: float) -> str:
    return f"{value:.3f}" if key == HYBRID else f"{value:.4g}"


def _verdict(vote: Vote, preferred: int | None) -> tuple[str, str]:
    """Return whether a score agrees with the best that was chosen, in words and as a style."""
    if vote.answer.kind == "bad":
        return "\u2013", "open"
    if vote.answer.kind == "tie":
        return ("\u2713 agrees", "yes") if preferred is None else ("\u2717 differs", "no")
    if preferred is None:
        return "cannot tell", "open"
    return ("\u2713 agrees", "yes") if preferred == vote.answer.best else ("\u2717 differs", "no")
