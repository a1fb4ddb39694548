"""The functions that programs and MCP clients call: the page's job without the page."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from sr_core.archives import write_archive
from sr_core.job import Job
from sr_core.pipeline import upscale as upscale_photo
from sr_core.runs import RUN_FILE
from sr_core.scoring import score_files
from sr_core.ui.settings import EXACT, FACTOR, Number, Settings
from sr_core.ui.visits import VisitStore
from sr_core.ui.words import in_words

_DEFAULT = Job()
UpscaleAnswer = tuple[str | None, dict[str, Any], str]


def make_upscale(store: VisitStore) -> Callable[..., UpscaleAnswer]:
    """Return the endpoint `upscale`; its files lie in the caller's own folder."""

    def upscale(  # noqa: D417 - Gradio fills in the request, no caller does
        request: gr.Request,
        photo: str,
        reference: str | None = None,
        num_candidates: float | int = _DEFAULT.num_candidates,
        seed: float | int = _DEFAULT.seed,
        steps: Number = None,
        scale: float | int = _DEFAULT.scale,
        width: Number = None,
        height: Number = None,
        metric_set: str = _DEFAULT.metric_set,
        color: str | None = None,
        fidelity: float | int = _DEFAULT.fidelity_weight,
        backbone: str = _DEFAULT.backbone,
        adapter: str = _DEFAULT.adapter,
        compare_with: str | None = _DEFAULT.compare_adapter,
        guidance: Number = None,
        prompt: str | None = None,
        negative_prompt: str | None = None,
        start: str | None = None,
        sampler: str | None = None,
    ) -> UpscaleAnswer:
        """Restore one photo several times, score and rank the candidates.

        Args:
            photo: The photo to restore: PNG, JPEG, WebP, TIFF, BMP, AVIF or HEIC, up to 32 MB.
            reference: The true photo at the output's size, if there is one, for the full hybrid reward.
            num_candidates: How many restorations to draw, 1 to 16.
            seed: Seed of the first candidate; candidate k has seed + k.
            steps: Sampling steps per candidate; the backbone's own if left out, as is all else without a value.
            scale: Output factor, 1 to 8; left aside where width and height are given.
            width: Exact output width in pixels.
            height: Exact output height in pixels.
            metric_set: offline, standard or paper.
            color: Colour transfer from the photo: off, adain or wavelet.
            fidelity: Weight of the faithful half of the reward, 0 vivid to 1 faithful.
            backbone: Restoration model.
            adapter: Trained variant: sft, or hpo, sobolev_dpo, as_dpo, iqa_amo, iqa_ft, one_step where installed.
            compare_with: Another adapter that draws every seed too; run.json names its file as `before`.
            guidance: Weight of the prompt, for a backbone that has one.
            prompt: What the photo shows; empty says nothing, `auto` asks the tagger.
            negative_prompt: What to keep away from; an empty text is a value too.
            start: noise, or lq for the enlarged photo with noise.
            sampler: native (the release's own), euler or heun.

        Returns:
            The best candidate as a PNG file, the content of run.json, and the whole run as a zip file.

        """
        visit = store.visit(request.session_hash)
        with in_words(), visit.working():
            exact = width is not None or height is not None
            settings = Settings(
                num_candidates=num_candidates, seed=seed, scale=scale,
                sizing=EXACT if exact else FACTOR, width=width, height=height, metric_set=metric_set,
                backbone=backbone, adapter=adapter,
            )  # fmt: skip
            visit.stop.clear()
            target = None if reference is None else Path(reference)
            folder = visit.new_folder(Path(photo))
            job = replace(
                settings.job(fidelity_weight=float(fidelity)), compare_adapter=compare_with or None,
                num_steps=None if steps is None else int(steps), color=color or None, sampler=sampler or None,
                guidance=guidance, prompt=prompt, negative_prompt=negative_prompt, start=start or None, strength=None,
            )  # fmt: skip
            *_, last = upscale_photo(Path(photo), folder, job, reference=target, stop=visit.stop.is_set)
            archive = write_archive(last.run, visit.new_download_folder())
        best = last.run.best
        content = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        return None if best is None else str(last.run.path(best)), content, str(archive)

    return upscale


def score(
    images: list[str],
    reference: str | None = None,
    lq: str | None = None,
    metric_set: str = _DEFAULT.metric_set,
    fidelity: float | int = _DEFAULT.fidelity_weight,
) -> dict[str, Any]:
    """Score image files with the metrics and the reward of the page.

    Args:
        images: Restorations of one photo, all of one size.
        reference: The true photo of the same size, if there is one.
        lq: The photo that they were made from, for consistency where there is no reference.
        metric_set: offline, standard or paper.
        fidelity: Weight of the faithful half of the reward, 0 vivid to 1 faithful.

    Returns:
        {metric_set, reference, metrics, left_out, images: [{file, scores, reward, rank}]}; reward null for one image.

    """
    with in_words():
        answer = score_files(
            [Path(image) for image in images or ()],
            reference=None if reference is None else Path(reference),
            lq=None if lq is None else Path(lq),
            metric_set=metric_set,
            fidelity_weight=float(fidelity),
        )
    # Where the server keeps uploads is nobody's business.
    for row in answer["images"]:
        row["file"] = Path(row["file"]).name
    return answer
