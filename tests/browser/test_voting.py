"""Blind voting on the real page: nothing tells who is who until the voter asks, everything then, all by keyboard."""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image as PillowImage
from playwright.sync_api import Browser, Page, Response, expect

from sr_core.ballots import pairs_of, run_key, show_pictures
from sr_core.runs import Run
from sr_core.vote_statistics import agreement, judged_pairs, verdicts
from sr_core.votes import Answer, Vote, VoteStore, new_voter
from tests.browser.conftest import PATIENCE_MS, new_page, settle
from tests.browser.server import served_page
from tests.explorer_run import write_run

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE_MS)

NUM_CANDIDATES = 5
SIZE = 256


class Site(NamedTuple):
    address: str
    root: Path
    run: Run


class Tab(NamedTuple):
    page: Page
    answers: list[str]
    """What the server has sent since the tab was opened."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("voting")
    run = write_run(folder / "bluebird", num_candidates=NUM_CANDIDATES, size=SIZE)
    with served_page(folder / "runs", runs=[run.folder]) as address:
        yield Site(address, folder / "runs", run)


@pytest.fixture
def tab(browser: Browser, site: Site) -> Iterator[Tab]:
    opened = open_tab(browser, site)
    yield opened
    leave(opened.page)


def open_tab(browser: Browser, site: Site, *, width: int = 1280, **options: Any) -> Tab:
    """Return a new visitor's voting tab, its first ballot on screen."""
    page = new_page(browser, viewport={"width": width, "height": 900}, accept_downloads=True, **options)
    answers = list[str]()
    page.goto(f"{site.address}?run={site.run.values['id']}")
    expect(page.locator("#sr-grid button[data-index]")).to_have_count(NUM_CANDIDATES)

    def keep(response: Response) -> None:
        if "json" in response.headers.get("content-type", ""):
            answers.append(response.text())

    page.on("response", keep)
    page.locator("#sr-tab-vote-button").click()
    wait_for_ballot(page)
    return Tab(page, answers)


def leave(page: Page) -> None:
    """Close a visitor's tab once no answer is on its way that would still be read."""
    settle(page)
    page.context.close()


def wait_for_ballot(page: Page) -> None:
    page.locator('.sr-vote[data-stage="ballot"] .sr-vote-panes[data-ready="yes"]').wait_for()


def wait_for_reveal(page: Page) -> None:
    page.locator('.sr-vote[data-stage="revealed"]').wait_for()


def vote_by_key(page: Page, *keys: str) -> None:
    """Answer the ballot and wait for the next one, or for who was who after the last."""
    before = page.locator(".sr-vote-progress").inner_text()
    for key in keys:
        page.keyboard.press(key)
    expect(page.locator(".sr-vote-progress")).not_to_have_text(before)
    page.locator('.sr-vote-panes[data-ready="yes"]').wait_for()


def reveal_by_key(page: Page) -> None:
    page.keyboard.press("r")
    wait_for_reveal(page)


def stored(site: Site) -> list[Vote]:
    return VoteStore(site.root / "private" / "votes.sqlite").votes([run_key(site.run)])


def new_votes(site: Site, before: list[Vote]) -> list[Vote]:
    old = {vote.ballot.token for vote in before}
    return [vote for vote in stored(site) if vote.ballot.token not in old]


def secrets(run: Run) -> list[str]:
    """Return everything that tells candidates apart: names, files, rewards and scores as they are printed."""
    told = ["seed", "reward", "rank", "_sft"]
    for record in run.candidates:
        told += [str(record.file), f"{record.reward:.3f}"]
        told += [f"{value:.4g}" for value in record.scores.values()]
        told += [str(value)[:9] for value in record.scores.values()]
    return told


def test_nothing_on_the_tab_or_from_the_server_tells_who_is_who_before_the_vote(tab: Tab, site: Site) -> None:
    page = tab.page
    expect(page.locator("#sr-vote-results")).to_be_hidden()
    values = page.evaluate("() => document.querySelector('#sr-vote-ballot').closest('.tabitem').outerHTML")
    ballots = [text for text in tab.answers if '"ballot"' in text]
    assert ballots
    for text in (values, *ballots):
        # The photo's own name is no secret: it is the input's.
        content = text.replace("reward-explorer", "").lower()
        assert [secret for secret in secrets(site.run) if secret.lower() in content] == []
    sources = page.locator(".sr-vote-picture").evaluate_all("images => images.map(i => i.getAttribute('src'))")
    assert [re.sub(r".*/", "", source) for source in sources] == ["a.png", "b.png"]
    assert page.locator(".sr-vote-picture").evaluate_all("images => images.map(i => i.alt)") == [
        "Picture A",
        "Picture B",
    ]


def test_the_pictures_are_the_files_own_pixels_without_their_recipe(tab: Tab, site: Site) -> None:
    page = tab.page
    before = stored(site)
    files = [
        page.request.get(page.evaluate("i => document.querySelectorAll('.sr-vote-picture')[i].src", place)).body()
        for place in (0, 1)
    ]
    vote_by_key(page, "1")
    (vote,) = new_votes(site, before)
    for content, picture in zip(files, vote.ballot.shown, strict=True):
        path = site.run.path(site.run.candidates[picture.candidate])
        with PillowImage.open(io.BytesIO(content)) as served, PillowImage.open(path) as own:
            np.testing.assert_array_equal(np.asarray(served), np.asarray(own))
        assert b"recipe" not in content
        assert b'seed"' not in content


def test_six_pairs_are_voted_on_by_keyboard_alone_and_every_one_is_stored(browser: Browser, site: Site) -> None:
    before = stored(site)
    page = open_tab(browser, site).page
    page.locator("#sr-tab-vote-button").focus()
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("() => document.activeElement.dataset.answer === 'a'"):
            break
    answers = [("1", "choice", 0), ("ArrowRight", "choice", 1), ("t", "tie", None), ("x", "bad", None)]
    answers += [("ArrowLeft", "choice", 0), ("2", "choice", 1)]
    for number, (key, _, _) in enumerate(answers, start=1):
        vote_by_key(page, key)
        words = f"{number} {'vote' if number == 1 else 'votes'} by you on this photo; {10 - number} pairs left"
        expect(page.locator(".sr-vote-progress")).to_have_text(words)
    votes = new_votes(site, before)
    assert [(vote.answer.kind, vote.answer.best) for vote in votes] == [(kind, best) for _, kind, best in answers]
    assert len({vote.voter for vote in votes}) == 1
    pairs = [pairs_of(picture.candidate for picture in vote.ballot.shown)[0] for vote in votes]
    assert len(set(pairs)) == 6
    leave(page)


def test_after_the_vote_the_page_says_who_was_who_and_what_the_metrics_prefer(tab: Tab, site: Site) -> None:
    page, before = tab.page, stored(site)
    vote_by_key(page, "1")
    vote_by_key(page, "2")
    reveal_by_key(page)
    votes = new_votes(site, before)
    vote, run = votes[-1], site.run
    rows = page.locator(".sr-vote-list tbody tr")
    expect(rows).to_have_count(2)
    for place, told in enumerate(votes):
        for picture in told.ballot.shown:
            record = run.candidates[picture.candidate]
            expect(rows.nth(place)).to_contain_text(f"{record.name}, ")
            expect(rows.nth(place)).to_contain_text(f"Rank {record.rank} of {NUM_CANDIDATES}")
    for place, picture in enumerate(vote.ballot.shown):
        record = run.candidates[picture.candidate]
        who = page.locator(".sr-vote-who").nth(place)
        expect(who).to_contain_text(record.name)
        expect(who).to_contain_text(f"Rank {record.rank} of {NUM_CANDIDATES}")
        expect(who).to_contain_text(f"reward {record.reward:.3f}")
        expect(page.locator(".sr-vote-picture").nth(place)).to_have_attribute(
            "alt", f"Picture {'AB'[place]}: {record.label}"
        )
    expect(page.locator(".sr-vote-said")).to_have_text("You chose B.")
    expect(page.locator(".sr-vote-who").nth(1)).to_contain_text("Your choice")
    a, b = (run.candidates[picture.candidate] for picture in vote.ballot.shown)
    row = page.locator(".sr-vote-agreement tr", has_text="NIQE")
    niqe = [a.scores["niqe"], b.scores["niqe"]]
    expect(row).to_contain_text("agrees" if niqe[1] < niqe[0] else "differs")
    for value in niqe:
        expect(row).to_contain_text(f"{value:.4g}")


def test_a_blind_vote_taken_back_counts_no_more_and_its_pair_comes_again_at_once(tab: Tab, site: Site) -> None:
    page, before = tab.page, stored(site)
    for key in ("1", "2", "1"):
        vote_by_key(page, key)
    page.keyboard.press("z")
    expect(page.locator(".sr-vote-notice")).to_contain_text("taken back")
    expect(page.locator(".sr-vote-progress")).to_have_text("2 votes by you on this photo; 8 pairs left")
    wait_for_ballot(page)
    vote_by_key(page, "2")
    votes = new_votes(site, before)
    assert [(vote.withdrawn, vote.num_revealed) for vote in votes] == [(False, 0)] * 2 + [(True, 0), (False, 0)]
    assert votes[2].ballot.shown == votes[3].ballot.shown


def test_nothing_tells_who_is_who_from_vote_to_vote_until_no_pair_is_left(tab: Tab, site: Site) -> None:
    page, before = tab.page, stored(site)
    for number in range(10):
        text = page.locator("#sr-vote").inner_html().lower()
        results = page.locator("#sr-vote-results").inner_html().lower() if number else ""
        own = text.replace(results, "")
        assert [secret for secret in secrets(site.run)[4:] if secret.lower() in own] == []
        assert page.locator(".sr-vote").get_attribute("data-stage") == "ballot"
        vote_by_key(page, "1")
    wait_for_reveal(page)
    assert [vote.num_revealed for vote in new_votes(site, before)] == [0] * 10
    expect(page.locator(".sr-vote-list tbody tr")).to_have_count(10)
    page.keyboard.press("Enter")
    wait_for_ballot(page)
    vote_by_key(page, "2")
    assert [vote.num_revealed for vote in new_votes(site, before)] == [0] * 10 + [2]


def told_vote_of_another(site: Site) -> None:
    """Cast a vote of somebody else who has been told who was who, so that there are figures to see."""
    store, voter = VoteStore(site.root / "private" / "votes.sqlite"), new_voter()
    ballot = store.issue(run_key(site.run), "pair", show_pictures(site.run, (0, 1)))
    store.cast(ballot.token, voter, Answer("choice", 0, 1))
    assert len(store.reveal(voter, [run_key(site.run)])) == 1


def test_the_figures_do_not_move_with_a_vote_before_its_voter_asks_who_was_who(browser: Browser, site: Site) -> None:
    told_vote_of_another(site)
    page = open_tab(browser, site).page
    results, words = page.locator("#sr-vote-results"), page.locator("#sr-vote-words")
    results.locator("button.label-wrap").click()
    num_before = len([vote for vote in stored(site) if not vote.withdrawn])
    expect(results).to_contain_text(f"Results of {num_before} vote")
    expect(words).to_contain_text(f"{num_before} vote")
    page.locator(".sr-vote-question").focus()
    settle(page)
    before = words.inner_text()
    vote_by_key(page, "1")
    page.locator("#sr-tab-explore-button").click()
    page.locator("#sr-tab-vote-button").click()
    wait_for_ballot(page)
    settle(page)
    assert words.inner_text() == before
    expect(results).to_contain_text(f"Results of {num_before} vote")
    page.locator(".sr-vote-question").focus()
    reveal_by_key(page)
    expect(results).to_contain_text(f"Results of {num_before + 1} vote")
    expect(words).not_to_have_text(before)
    leave(page)


def test_keys_answer_only_inside_the_ballot_and_once_however_long_they_are_held(tab: Tab, site: Site) -> None:
    page, before = tab.page, stored(site)
    assert page.evaluate("() => document.activeElement.className") == "sr-vote-question"
    for leave in ("document.activeElement.blur()", "document.querySelector('#sr-tab-vote-button').focus()"):
        page.evaluate(leave)
        for key in ("1", "t", "x", "a", "ArrowLeft" if "blur" in leave else "b"):
            page.keyboard.press(key)
    page.wait_for_timeout(300)
    assert new_votes(site, before) == []
    page.locator(".sr-vote-frame").first.click()
    page.keyboard.down("t")
    page.keyboard.down("t")
    expect(page.locator(".sr-vote-progress")).to_contain_text("1 vote by you")
    wait_for_ballot(page)
    page.keyboard.down("t")
    page.wait_for_timeout(300)
    page.keyboard.up("t")
    assert len(new_votes(site, before)) == 1


def test_pictures_that_do_not_arrive_cannot_be_voted_on_and_can_be_loaded_again(browser: Browser, site: Site) -> None:
    before = stored(site)
    page = open_tab(browser, site).page
    page.route("**/b.png", lambda route: route.abort())
    page.keyboard.press("1")
    page.locator('.sr-vote-panes[data-ready="failed"]').wait_for()
    for key in ("ArrowLeft", "1", "t", "x"):
        page.keyboard.press(key)
    expect(page.locator('.sr-vote [data-answer="a"]')).to_be_disabled()
    page.wait_for_timeout(300)
    assert len(new_votes(site, before)) == 1
    page.unroute("**/b.png")
    page.get_by_role("button", name="Load them again").click()
    wait_for_ballot(page)
    page.locator(".sr-vote-question").focus()
    vote_by_key(page, "1")
    assert len(new_votes(site, before)) == 2
    leave(page)


def test_a_vote_keeps_how_its_pictures_were_looked_at(tab: Tab, site: Site) -> None:
    page, before = tab.page, stored(site)
    page.keyboard.press("i")
    page.keyboard.press("i")
    page.locator('.sr-vote [data-zoom="4"]').click()
    page.keyboard.press("f")
    vote_by_key(page, "1")
    vote_by_key(page, "1")
    first, second = (vote.viewing for vote in new_votes(site, before))
    assert first == (True, 4.0)
    assert second.saw_input is False
    assert second.zoom is not None
    assert 0 < second.zoom <= 1


def test_a_pointer_let_go_outside_a_picture_holds_it_no_more(tab: Tab) -> None:
    page = tab.page
    frame = page.locator(".sr-vote-frame").first.bounding_box()
    assert frame is not None
    page.mouse.move(frame["x"] + 100, frame["y"] + 100)
    page.mouse.down()
    page.mouse.move(frame["x"] + 100, frame["y"] - 60)
    page.mouse.up()
    page.locator('.sr-vote [data-zoom="4"]').click()
    left = "() => document.querySelector('.sr-vote-picture').style.left"
    resting = page.evaluate(left)
    page.mouse.move(frame["x"] + 150, frame["y"] + 100)
    page.mouse.move(frame["x"] + 50, frame["y"] + 60, steps=3)
    assert page.evaluate(left) == resting


def test_best_and_worst_of_four_by_keys_and_by_buttons(tab: Tab, site: Site) -> None:
    page, before = tab.page, stored(site)
    page.locator('button[data-mode="four"]').click()
    page.locator('.sr-vote[data-mode="four"]').wait_for()
    wait_for_ballot(page)
    page.keyboard.press("3")
    expect(page.locator(".sr-vote-question")).to_have_text("C is the best. Which is the worst?")
    page.keyboard.press("3")
    expect(page.locator(".sr-vote-question")).to_have_text("Which of the four is the best?")
    vote_by_key(page, "4", "1")
    page.get_by_role("button", name="B is the best").click()
    page.get_by_role("button", name="C is the worst").click()
    expect(page.locator(".sr-vote-progress")).to_contain_text("2 votes by you")
    page.locator('.sr-vote-panes[data-ready="yes"]').wait_for()
    answers = [vote.answer[:] for vote in new_votes(site, before)]
    assert answers == [("choice", 3, 0), ("choice", 1, 2)]
    expect(page.locator(".sr-vote-notice")).to_have_text("Stored: You chose B as the best and C as the worst.")


def test_all_pictures_show_the_same_crop_and_enlarge_by_nearest_neighbour(tab: Tab) -> None:
    page = tab.page
    page.keyboard.press("i")
    expect(page.locator(".sr-vote-under").first).to_be_visible()
    page.keyboard.press("i")
    expect(page.locator(".sr-vote-under").first).to_be_hidden()
    page.locator('.sr-vote [data-zoom="4"]').click()
    frame = page.locator(".sr-vote-frame").first.bounding_box()
    assert frame is not None
    page.mouse.move(frame["x"] + 200, frame["y"] + 200)
    page.mouse.down()
    page.mouse.move(frame["x"] + 120, frame["y"] + 150, steps=4)
    page.mouse.up()
    page.keyboard.press("Shift+ArrowRight")
    boxes = page.locator(".sr-vote-frame img").evaluate_all(
        "images => images.map(i => [i.style.left, i.style.top, i.style.width, getComputedStyle(i).imageRendering])"
    )
    assert len(boxes) == 4
    assert {tuple(box) for box in boxes} == {tuple(boxes[0])}
    assert boxes[0][2:] == [f"{4 * SIZE}px", "pixelated"]
    centred = (frame["width"] - 4 * SIZE) / 2
    assert float(boxes[0][0].removesuffix("px")) < centred - 80
    page.keyboard.press("f")
    expect(page.locator('.sr-vote [data-zoom="fit"]')).to_have_attribute("aria-pressed", "true")


def test_the_figures_are_those_of_the_library_and_the_exports_hold_the_votes(
    browser: Browser, site: Site, tmp_path: Path
) -> None:
    page = open_tab(browser, site).page
    for key in ("1", "2", "t"):
        vote_by_key(page, key)
    reveal_by_key(page)
    results = page.locator("#sr-vote-results")
    votes = [vote for vote in stored(site) if not vote.withdrawn]
    expect(results).to_contain_text(f"Results of {len(votes)} votes")
    results.locator("button.label-wrap").click()
    page.locator('#sr-vote-accuracy .sr-chart-stage[data-ready="yes"]').wait_for()
    rows = page.locator("#sr-vote-accuracy tbody tr")
    found = agreement(verdicts(site.run, judged_pairs(votes)))
    for place, expected in enumerate(found):
        cells = rows.nth(place).locator("td").all_inner_texts()
        accuracy = expected.accuracy
        numbers = [f"{value:.4g}" for value in (accuracy.share, accuracy.low, accuracy.high) if value is not None]
        assert cells[:5] == [str(accuracy.hits), str(accuracy.num), *numbers]
    for button, name in (("#sr-vote-parquet", "votes.parquet"), ("#sr-vote-pickapic", "votes_pickapic.parquet")):
        with page.expect_download() as download:
            page.locator(button).click()
        assert download.value.suggested_filename == name
        download.value.save_as(tmp_path / name)
    assert pq.read_table(tmp_path / "votes.parquet").num_rows == len(votes)
    pairs = pq.read_table(tmp_path / "votes_pickapic.parquet")
    assert pairs.num_rows == len(judged_pairs(votes))
    assert set(pairs["label_0"].to_pylist()) <= {0.0, 0.5, 1.0}
    leave(page)


def test_a_voter_comes_back_to_their_votes_and_can_delete_them(browser: Browser, site: Site) -> None:
    before = stored(site)
    page = open_tab(browser, site).page
    vote_by_key(page, "1")
    assert len(new_votes(site, before)) == 1
    again = page.context.new_page()
    again.set_default_timeout(PATIENCE_MS)
    again.goto(f"{site.address}?run={site.run.values['id']}")
    expect(again.locator("#sr-grid button[data-index]")).to_have_count(NUM_CANDIDATES)
    again.locator("#sr-tab-vote-button").click()
    wait_for_ballot(again)
    expect(again.locator(".sr-vote-progress")).to_have_text("1 vote by you on this photo; 9 pairs left")
    again.get_by_role("button", name="Delete my votes").click()
    again.locator('.sr-vote [data-act="forget"]').click()
    expect(again.locator(".sr-vote-notice")).to_have_text("1 vote and your random id are deleted.")
    assert new_votes(site, before) == []
    leave(page)


def test_a_forged_ballot_and_the_file_of_votes_are_refused(tab: Tab, site: Site) -> None:
    page, before = tab.page, stored(site)
    page.evaluate("() => window.fetch = new Proxy(window.fetch, {apply: (f, self, args) => { "
                  "if (args[1]?.body && typeof args[1].body === 'string') args[1] = {...args[1], "
                  "body: args[1].body.replace(/(\"token\":\")[0-9a-f]{32}/, '$1' + '0'.repeat(32))}; "
                  "return Reflect.apply(f, self, args); }})")  # fmt: skip
    page.keyboard.press("1")
    expect(page.locator(".sr-vote-notice")).to_contain_text("on the ballot that is on screen")
    expect(page.locator(".sr-vote")).to_have_attribute("data-stage", "ballot")
    assert new_votes(site, before) == []
    for name in ("votes.sqlite", "votes.sqlite-wal"):
        answer = page.request.get(f"{site.address}gradio_api/file={site.root / 'private' / name}")
        assert answer.status == 403


def test_a_phone_votes_by_touch_without_scrolling_sideways(browser: Browser, site: Site) -> None:
    before = stored(site)
    page = open_tab(browser, site, width=375, has_touch=True, is_mobile=True).page
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    page.locator('.sr-vote [data-answer="b"]').tap()
    expect(page.locator(".sr-vote-progress")).to_contain_text("1 vote by you")
    page.locator('.sr-vote-blind [data-act="reveal"]').tap()
    wait_for_reveal(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    page.locator('.sr-vote [data-act="next"]').tap()
    wait_for_ballot(page)
    assert [vote.answer.best for vote in new_votes(site, before)] == [1]
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    leave(page)
