"""The audit's settings as one value: from widgets to a degradation and a job, with the cost before the start."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

from sr_core.audit import AuditPlan, Degradation, audit_job, plan_audit, too_small_for
from sr_core.backbones import SFT
from sr_core.errors import ConfigError, InputError, SRError
from sr_core.estimate import estimate
from sr_core.job import Job
from sr_core.ui.plans import Plan, Planned, describe_plan
from sr_core.ui.settings import Number, Settings

MADE, GIVEN = "Degrade it", "Use my own"
"""Where the low-quality photo comes from."""
WHOLE = 0
"""Part of the photo, as the widget has it: all of it."""
NO_ADAPTER = ""
"""Second adapter, as the widget has it: none."""
PRESET_WORDS = {
    "bicubic": "reduced only, nothing added",
    "hggt-real-esrgan": "two gentle rounds",
    "hggt-swinir": "one gentle round",
    "resshift-1st": "one mild round, ResShift's test",
    "dp2o": "one strong round, DP2O-SR",
    "resshift": "strong, second round for half",
    "stablesr": "two medium rounds, little blur",
    "seesr": "two medium rounds",
    "asasr": "two rounds, little noise, much JPEG",
    "real-esrgan": "two strong rounds",
}
"""Every published preset in a few words, from gentle to strong."""
_DEFAULT = Job()


@dataclass(frozen=True)
class AuditSettings:
    """What the widgets hold, in their order on the page."""

    source: str = MADE
    preset: str = Degradation().preset
    degradation_seed: Number = 0
    side: int = 512
    """Longest side in px of the part that is used; 0 is the whole photo."""
    before: str = SFT
    after: str = NO_ADAPTER
    num_seeds: Number = _DEFAULT.num_candidates
    seed: Number = _DEFAULT.seed
    num_steps: Number = _DEFAULT.num_steps
    metric_set: str = _DEFAULT.metric_set

    def degradation(self) -> Degradation:
        """Return how the LQ is made; raises ConfigError if the seed is missing or cannot be used."""
        if self.degradation_seed is None or self.degradation_seed != int(self.degradation_seed):
            raise ConfigError(f"the degradation seed must be a whole number, got {self.degradation_seed}; type one")
        return Degradation(preset=self.preset, seed=int(self.degradation_seed), side=self.side or None)

    def job(self, *, fidelity_weight: float = 0.5) -> Job:
        """Return the job but for the output's size; raises ConfigError if a value is missing or out of range.

        The second adapter draws the candidates; the first draws the same seeds to compare with.
        """
        drawing = Settings(
            num_candidates=self.num_seeds, seed=self.seed, num_steps=self.num_steps, metric_set=self.metric_set
        ).job(fidelity_weight=fidelity_weight)
        if self.after == NO_ADAPTER:
            return replace(drawing, adapter=self.before)
        if self.after == self.before:
            raise ConfigError("the two adapters must differ; choose another one, or None to audit one alone")
        return replace(drawing, adapter=self.after, compare_adapter=self.before)


@dataclass(frozen=True, kw_only=True)
class AuditRequest:
    """Everything that one press on the button asks for, checked."""

    hq: Path
    lq: Path | None
    degradation: Degradation
    plan: AuditPlan
    job: Job

    @property
    def seconds(self) -> float:
        """How long it will take."""
        return estimate(*self.plan.lq_size, self.job).seconds


def audit_request(
    hq: str | None, lq: str | None, settings: AuditSettings, *, fidelity_weight: float = 0.5
) -> AuditRequest:
    """Return what the widgets ask for; only headers are read.

    Raises InputError or ConfigError, in words with numbers, where it cannot be done.
    """
    if hq is None:
        raise InputError("there must be a full-quality photo first; drop one")
    given = settings.source == GIVEN
    if given and lq is None:
        raise InputError("there must be a low-quality photo too; drop one, or let the page degrade the photo")
    low = Path(lq) if given and lq is not None else None
    degradation = settings.degradation()
    plan = plan_audit(Path(hq), degradation, lq=low, metrics=settings.metric_set)
    job = audit_job(settings.job(fidelity_weight=fidelity_weight), plan)
    cost = estimate(*plan.lq_size, job)
    if cost.problem is not None:
        raise InputError(cost.problem)
    return AuditRequest(hq=Path(hq), lq=low, degradation=degradation, plan=plan, job=job)


def describe_audit(hq: str | None, lq: str | None, settings: AuditSettings, *, pace: float = 1.0) -> tuple[str, bool]:
    """Return the plan as HTML, and whether it can start; `pace` as in `describe_plan`."""
    if hq is None:
        return describe_plan(Plan(photos=()), None), False
    try:
        request = audit_request(hq, lq, settings)
    except SRError as error:
        return describe_plan(Plan(photos=(), problem=str(error)), None), False
    cost = estimate(*request.plan.lq_size, request.job)
    planned = Planned(name=request.hq.name, size=request.plan.hq_size, cost=cost, problem=None)
    words = [*request.plan.words, *_left_out(request)]
    notes = "".join(f'<p class="sr-plan">{escape(sentence)}</p>' for sentence in words)
    return describe_plan(Plan(photos=(planned,)), request.job, pace=pace) + notes, True


def _left_out(request: AuditRequest) -> Sequence[str]:
    small = too_small_for(request.plan.hq_size, request.job.metric_set)
    if not small:
        return ()
    names = ", ".join(f"{name} (from {side} px)" for name, side in small.items())
    return (f"Left out of the reward at this size: {names}.",)
