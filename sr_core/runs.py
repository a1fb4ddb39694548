"""A run on disk: one photo's candidates with their recipe and scores in `run.json`, whole at every moment."""

import json
import math
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sr_core.errors import InputError
from sr_core.files import replacing
from sr_core.rewards.group import GroupReward, hybrid_reward, score_term

RUN_FILE = "run.json"


def new_run_id() -> str:
    """Return a name for a run that nobody can guess: whoever knows it may open the run by its link."""
    return secrets.token_urlsafe(16)


@dataclass(frozen=True, kw_only=True)
class CandidateRecord:
    """One candidate as `run.json` stores it."""

    index: int
    seed: int | None
    """None for a candidate that no seed drew; then `source` says where it came from."""
    rank: int | None = None
    """1 is best; None when unranked: failed, alone, or not scored yet."""
    reward: float | None = None
    """In [0, 1]; comparable inside this run only."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Raw values by score key."""
    file: str | None = None
    """Path relative to run.json; None when it failed."""
    dtype: str = "float32"
    problem: str | None = None
    """Why there is no image."""
    before: str | None = None
    """Path relative to run.json of the same seed drawn by the run's `compare_adapter`: a PNG, not scored, not ranked.

    None where none was asked for or it failed, and in runs of earlier versions.
    """
    before_scores: Mapping[str, float] = field(default_factory=dict)
    """Raw values of `before` by score key, taken like `scores`."""
    level: float | None = None
    """Level in [0, 1] that a restoration in one step began at; None for one in several steps."""
    source: str | None = None
    """What a candidate is called that no seed drew: the name of its file or model."""

    @property
    def name(self) -> str:
        """Return what tells it from the others: its seed, or where it came from."""
        return f"seed {self.seed}" if self.source is None else self.source

    @property
    def label(self) -> str:
        """Say what a picture of it shows, for captions and screen readers."""
        words = [f"Candidate {self.index + 1}", self.name]
        if self.problem:
            words.append(f"failed: {self.problem}")
        if self.rank is not None:
            words.append(f"rank {self.rank}")
        if self.reward is not None:
            words.append(f"reward {self.reward:.3f}")
        return ", ".join(words)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A folder with `run.json`; values beside the candidates are kept as they were read."""

    folder: Path
    values: Mapping[str, Any]
    """Everything at the top of run.json but `candidates`."""
    candidates: tuple[CandidateRecord, ...]

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """Read a run; raises InputError if the folder holds none, its file is damaged or a picture lies elsewhere."""
        path = folder / RUN_FILE
        try:
            values = json.loads(path.read_text(encoding="utf-8"), parse_float=_finite, parse_constant=_finite)
            records = tuple(_checked(CandidateRecord(**record)) for record in values.pop("candidates"))
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(f"a run must be a folder with {RUN_FILE}, got {folder}") from None
        except KeyError as error:
            raise InputError(f"{path} is not a run: it has no {error}") from error
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"{path} is not a run: {error}") from error
        run = cls(folder=folder, values=values, candidates=records)
        for file in _files_of(run):
            if file is not None and not (isinstance(file, str) and _inside(folder, file)):
                raise InputError(f"{path}: files must lie in the run's folder, got {str(file)[:200]!r}")
        return run

    def text(self) -> str:
        """Return the content of `run.json`."""
        content = {**self.values, "candidates": [asdict(record) for record in self.candidates]}
        return json.dumps(content, indent=1, allow_nan=False) + "\n"

    def save(self) -> None:
        """Write `run.json`, whole or not at all."""
        text = self.text()
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.folder / RUN_FILE) as file:
            file.write(text.encode())

    def path(self, record: CandidateRecord) -> Path:
        """Return where a candidate's file lies; raises InputError for a failed one."""
        if record.file is None:
            raise InputError(f"candidate {record.index + 1} has no image: {record.problem}")
        return self.folder / record.file

    @property
    def photo(self) -> str:
        """Return what tells its photo from others: the SHA-256 of the file that was given, before its place was taken.

        Runs of one photo have the same, whether it was restored twice or came back in an archive.
        """
        given = self.values["input"]
        return str(given.get("original_sha256", given["sha256"]))

    @property
    def ranked(self) -> tuple[CandidateRecord, ...]:
        """Return the candidates from best to worst; unranked ones last, in the order they were drawn."""
        return tuple(sorted(self.candidates, key=_ranking))

    @property
    def best(self) -> CandidateRecord | None:
        """Return the candidate with the highest reward, or the only one that succeeded."""
        drawn = [record for record in self.ranked if record.file is not None]
        return drawn[0] if drawn else None

    @property
    def worst(self) -> CandidateRecord | None:
        """Return the candidate with the lowest reward, where at least two are ranked."""
        scored = [record for record in self.ranked if record.reward is not None]
        return scored[-1] if len(scored) > 1 else None

    def group_reward(self, fidelity_weight: float) -> GroupReward | None:
        """Return the reward of the scored candidates, in the order of `candidates`, without drawing again.

        None where fewer than two are scored. `fidelity_weight` runs from 0, vivid, to 1, faithful.
        """
        scored = [record for record in self.candidates if record.scores]
        if len(scored) < 2:
            return None
        keys = [key for key in scored[0].scores if all(key in record.scores for record in scored)]
        raw = {key: [record.scores[key] for record in scored] for key in keys}
        return hybrid_reward(raw, {key: score_term(key) for key in keys}, fidelity_weight=fidelity_weight)

    def reranked(self, fidelity_weight: float) -> "Run":
        """Return the run with rewards and ranks at another fidelity weight; nothing is written."""
        reward = self.group_reward(fidelity_weight)
        if reward is None or reward.ranks is None:
            cleared = tuple(replace(record, rank=None, reward=None) for record in self.candidates)
            return replace(self, candidates=cleared)
        places = iter(zip(reward.reward, reward.ranks, strict=True))
        records = []
        for record in self.candidates:
            value, rank = next(places) if record.scores else (None, None)
            records.append(replace(record, reward=None if value is None else float(value), rank=rank))
        values = {**self.values, "fidelity_weight": fidelity_weight, "tie_band": reward.tie_band}
        return replace(self, values=values, candidates=tuple(records))


def _ranking(record: CandidateRecord) -> tuple[float, int]:
    return (-record.reward if record.reward is not None else 2.0 + (record.file is None), record.index)


def _finite(text: str) -> float:
    """Read a number; turns away NaN and infinities, which JSON does not have, and what is too large for a number."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"numbers must be finite, got {text[:20]}")
    return number


def _checked(record: CandidateRecord) -> CandidateRecord:
    """Return a record whose fields have the types that the rest of the project relies on."""
    number = (int, float)
    kinds: dict[str, tuple[type, ...]] = {
        "index": (int,),
        "seed": (int, type(None)),
        "rank": (int, type(None)),
        "reward": (*number, type(None)),
        "scores": (dict,),
        "file": (str, type(None)),
        "dtype": (str,),
        "problem": (str, type(None)),
        "before": (str, type(None)),
        "before_scores": (dict,),
        "level": (*number, type(None)),
        "source": (str, type(None)),
    }
    for name, kind in kinds.items():
        if not isinstance(getattr(record, name), kind):
            raise TypeError(f"{name} of a candidate must be {_names(kind)}, got {getattr(record, name)!r}")
    for key, value in (*record.scores.items(), *record.before_scores.items()):
        if not isinstance(value, number):
            raise TypeError(f"the score {key} must be a number, got {value!r}")
    if (record.seed is None) == (record.source is None):
        raise TypeError(f"a candidate must have a seed or a source, got {record.seed!r} and {record.source!r}")
    return record


def _names(kinds: tuple[type, ...]) -> str:
    return " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)


def _references(run: Run) -> list[Path]:
    return sorted(path for path in run.folder.iterdir() if path.stem == "reference")


def reference_file(run: Run) -> Path | None:
    """Return the ground truth that a run was scored against, if it had one; raises InputError if it is gone."""
    if not run.values.get("reference"):
        return None
    found = _references(run)
    if len(found) != 1:
        raise InputError(f"{run.folder.name} must hold one file named reference, got {len(found)}")
    return found[0]


def _files_of(run: Run) -> Iterator[object]:
    """Yield every picture that a run file names, None where it names none, and the reference."""
    photo = run.values.get("input")
    yield photo.get("file") if isinstance(photo, Mapping) else None
    yield run.values.get("prior")
    yield from (path.name for path in _references(run))
    for record in run.candidates:
        yield record.file
        yield record.before


def _inside(folder: Path, file: str) -> bool:
    """Return whether a stored path stays in its run's folder."""
    try:
        return (folder / file).resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # a null byte, half a character, links in a circle
        return False


def with_before_scores(run: Run, scores: Mapping[str, Iterable[float]], indices: Iterable[int]) -> Run:
    """Return the run with raw scores put on the images that its adapter to compare with drew for `indices`."""
    columns = {key: list(values) for key, values in scores.items()}
    by_index = {index: {key: column[i] for key, column in columns.items()} for i, index in enumerate(indices)}
    records = (replace(r, before_scores=by_index.get(r.index, r.before_scores)) for r in run.candidates)
    return replace(run, candidates=tuple(records))


def with_scores(run: Run, scores: Mapping[str, Iterable[float]], indices: Iterable[int], fidelity_weight: float) -> Run:
    """Return the run with raw scores put on the candidates `indices`, ranked."""
    columns = {key: list(values) for key, values in scores.items()}
    by_index = {index: {key: column[i] for key, column in columns.items()} for i, index in enumerate(indices)}
    records = tuple(replace(record, scores=by_index.get(record.index, record.scores)) for record in run.candidates)
    return replace(run, candidates=records).reranked(fidelity_weight)
