from pathlib import Path

from PIL import Image as PillowImage

from sr_core.job import Job
from sr_core.ui.plans import Plan, describe_plan, duration, plan_run, print_size


def photo(path: Path, width: int, height: int) -> Path:
    PillowImage.new("RGB", (width, height), "teal").save(path)
    return path


def test_a_plan_tells_the_output_size(tmp_path: Path) -> None:
    plan = plan_run([photo(tmp_path / "a.png", 64, 48)], Job(scale=3.0))
    assert plan.ready
    assert "192 &times; 144 px" in describe_plan(plan, Job(scale=3.0))


def test_a_size_on_paper_needs_a_resolution(tmp_path: Path) -> None:
    plan = plan_run([photo(tmp_path / "a.png", 300, 150)], Job())
    assert " cm" not in describe_plan(plan, Job())
    assert "10.2 x 5.1 cm" in describe_plan(plan, Job(dpi=300.0))
    assert print_size(254, 127, 254) == "2.5 x 1.3 cm"


def test_an_impossible_output_is_refused_with_the_largest_that_fits(tmp_path: Path) -> None:
    plan = plan_run([photo(tmp_path / "wide.png", 2100, 40)], Job(scale=8.0))
    assert not plan.ready
    assert "the largest that fits is" in describe_plan(plan, Job(scale=8.0))


def test_one_bad_photo_does_not_hold_up_the_others(tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    plan = plan_run([bad, photo(tmp_path / "good.png", 64, 64)], Job())
    assert plan.ready
    words = describe_plan(plan, Job())
    assert 'role="alert"' in words
    assert "256 &times; 256 px" in words


def test_without_a_good_photo_nothing_can_be_run(tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    assert not plan_run([bad], Job()).ready
    assert not plan_run([], Job()).ready
    assert not Plan(photos=(), problem="the seed must be a number").ready


def test_names_of_files_cannot_become_markup(tmp_path: Path) -> None:
    bad = tmp_path / "<img src=x onerror=alert(1)>.png"
    bad.write_bytes(b"no image")
    assert "<img" not in describe_plan(plan_run([bad], Job()), Job())


def test_durations_are_said_in_seconds_then_in_minutes() -> None:
    assert [duration(s) for s in (0.2, 5, 89, 120, 3600)] == ["1 s", "5 s", "89 s", "2 min", "60 min"]
