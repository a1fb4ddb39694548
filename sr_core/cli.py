"""The `sr` command: upscale, score, join, bench, weights and merge-loras."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sr_core.commands import BAD_INPUT, run_commands, say_error
from sr_core.errors import ConfigError, InputError, SRError
from sr_core.version import VERSION

if TYPE_CHECKING:
    from sr_core.job import Job
    from sr_core.runs import Run

app = typer.Typer(add_completion=False, rich_markup_mode=None)


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Return (width, height) of a text such as 1920x1080; raises ConfigError if it is not one."""
    if text is None:
        return None
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdecimal() and height.isdecimal()):
        raise ConfigError(f"--size must look like 1920x1080, got {text!r}")
    return int(width), int(height)


def reference_for(photo: Path, reference: Path | None) -> Path | None:
    """Return the reference of one photo: the file itself, or the file of the same name in a folder.

    In a folder the ending may differ. Raises InputError if there is none.
    """
    if reference is None or reference.is_file():
        return reference
    if not reference.is_dir():
        raise InputError(f"--reference must be a file or a folder, got {reference}")
    exact = reference / photo.name
    found = [exact] if exact.is_file() else sorted(p for p in reference.iterdir() if p.stem == photo.stem)
    if len(found) != 1:
        raise InputError(f"{reference} must hold one image named {photo.stem}, found {len(found)}")
    return found[0]


def run_folders(photos: Sequence[Path], out: Path) -> Iterator[tuple[Path, Path]]:
    """Yield each photo with a folder of its own; photos of the same name get a number."""
    taken: set[str] = set()
    for photo in photos:
        # A file may be called "...png", whose stem would lead out of the folder.
        stem = photo.stem if photo.stem.strip(".") else "photo"
        name, number = stem, 2
        while name in taken:
            name, number = f"{stem}-{number}", number + 1
        taken.add(name)
        yield photo, out / name


def _upscale_one(photo: Path, folder: Path, job: "Job", reference: Path | None) -> None:
    """Run one photo with a progress bar and print the ranking."""
    from tqdm import tqdm

    from sr_core.pipeline import upscale as run_job

    with tqdm(total=1, desc=photo.name, unit="pass", leave=False, disable=None) as bar:

        def on_step(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        run = None
        for progress in run_job(photo, folder, job, reference=reference_for(photo, reference), on_step=on_step):
            run = progress.run
            bar.set_postfix_str(progress.message)
    assert run is not None
    _print_ranking(run)
    for notice in run.values["notices"]:
        typer.echo(f"note: {notice}", err=True)
    typer.echo(f"{folder / 'run.json'}")


def _print_ranking(run: "Run") -> None:
    """Print the candidates from best to worst, and what the reward does without."""
    from sr_core.backbones import adapter_label

    for record in run.ranked:
        place = "unranked" if record.rank is None else f"rank {record.rank}"
        reward = "" if record.reward is None else f"  reward {record.reward:.3f}"
        before = "" if record.before is None else f"  {adapter_label(run.values['compare_adapter'])}: {record.before}"
        level = "" if record.level is None else f"  level {record.level:.2f}"
        typer.echo(f"{place:9s} {record.name}{reward}{level}  {record.file or record.problem}{before}")
    for entry in run.values["left_out"]:
        typer.echo(f"left out: {entry['name']}: {entry['reason']}", err=True)


@app.command()
def upscale(
    photos: Annotated[list[Path], typer.Argument(help="Photographs.")],
    out: Annotated[Path, typer.Option(help="Folder; each photo gets one of its own in it.")],
    num_candidates: Annotated[int, typer.Option(help="Restorations per photo, 1 to 16.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of the first candidate; candidate k has seed + k.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Sampling steps; the backbone's own if left out.")] = None,
    scale: Annotated[float, typer.Option(help="Output factor, 1 to 8.")] = 4.0,
    size: Annotated[str | None, typer.Option(help="Exact output size WxH instead of a factor.")] = None,
    reference: Annotated[Path | None, typer.Option(help="Ground truth: a file, or a folder of same names.")] = None,
    metrics: Annotated[str, typer.Option(help="Metric set: offline, standard, paper, train_offline.")] = "offline",
    fidelity: Annotated[float, typer.Option(help="0 vivid to 1 faithful.")] = 0.5,
    backbone: Annotated[
        str,
        typer.Option(help="Restoration model; compact, or one that `sr weights` lists."),
    ] = "compact",
    adapter: Annotated[
        str,
        typer.Option(
            help="Trained variant: sft, or hpo (DP2O), sobolev_dpo, as_dpo, iqa_amo, iqa_ft, one_step, if installed."
        ),
    ] = "sft",
    compare_with: Annotated[
        str | None, typer.Option(help="Draw every seed with this adapter too, as NAME_seedK_ADAPTER.png.")
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="euler or heun; native is a large backbone's own.")] = None,
    color: Annotated[str | None, typer.Option(help="Colour transfer from the photo: off, adain, wavelet.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Weight of the prompt; 1 is the plain network.")] = None,
    prompt: Annotated[
        str | None, typer.Option(help="What the photo shows; auto asks the captioner of `sr weights`.")
    ] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What to keep away from.")] = None,
    start: Annotated[str | None, typer.Option(help="noise, or lq: the enlarged photo with noise.")] = None,
    strength: Annotated[float | None, typer.Option(help="Share of the way from noise that is drawn; with lq.")] = None,
    tile: Annotated[int | None, typer.Option(help="Largest side of a tile in pixels of the photo.")] = None,
    base: Annotated[Path | None, typer.Option(help="Folder of the base model, as diffusers saves it.")] = None,
    controlnet: Annotated[Path | None, typer.Option(help="ControlNet: safetensors file or folder.")] = None,
    lora: Annotated[Path | None, typer.Option(help="LoRA: safetensors file or folder.")] = None,
    offload: Annotated[str, typer.Option(help="none, model or sequential: what waits in main memory.")] = "none",
    quantize: Annotated[str, typer.Option(help="none, 8bit or 4bit: how the frozen base is stored.")] = "none",
    attention: Annotated[str, typer.Option(help="whole, or sliced for devices without a fused kernel.")] = "whole",
    format: Annotated[str, typer.Option(help="png, webp, jpeg or tiff.")] = "png",
    bit_depth: Annotated[int, typer.Option(help="8, or 16 for png and tiff.")] = 8,
    dpi: Annotated[float | None, typer.Option(help="Print resolution; the photo's own if left out.")] = None,
    keep_gps: Annotated[bool, typer.Option("--keep-gps", help="Keep where the photo was taken.")] = False,
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
) -> None:
    """Restore photographs: several candidates each, scored and ranked, with a run.json beside them."""
    from sr_core.backbones.backbone import LoadOptions
    from sr_core.job import Job

    given = {"base": base, "controlnet": controlnet, "lora": lora}
    job = Job(
        num_candidates=num_candidates,
        seed=seed,
        num_steps=steps,
        sampler=sampler,
        scale=scale,
        size=parse_size(size),
        color=color,
        guidance=guidance,
        prompt=prompt,
        negative_prompt=negative_prompt,
        start=start,
        strength=strength,
        tile=tile,
        weights=LoadOptions(
            parts=tuple((name, str(path)) for name, path in given.items() if path is not None),
            offload=offload,
            quantize=quantize,
            attention=attention,
        ),
        metric_set=metrics,
        fidelity_weight=fidelity,
        backbone=backbone,
        adapter=adapter,
        compare_adapter=compare_with,
        dtype=dtype,
        format=format,
        bit_depth=bit_depth,
        dpi=dpi,
        keep_gps=keep_gps,
    )
    failed = 0
    for photo, folder in run_folders(photos, out):
        try:
            _upscale_one(photo, folder, job, reference)
        except (SRError, OSError) as error:
            message = str(error)
            say_error(message if message.startswith(photo.name) else f"{photo.name}: {message}")
            failed += 1
    if failed:
        raise typer.Exit(BAD_INPUT)


def _write_json(values: object, target: str) -> None:
    """Print JSON, or write it to a file."""
    text = json.dumps(values, indent=1, allow_nan=False)
    if target == "-":
        typer.echo(text)
        return
    Path(target).write_text(text + "\n", encoding="utf-8")


@app.command()
def score(
    images: Annotated[list[Path], typer.Argument(help="Images of one photo, to be compared with each other.")],
    reference: Annotated[Path | None, typer.Option(help="Ground truth of the same size.")] = None,
    lq: Annotated[Path | None, typer.Option(help="The photo they were made from, for consistency.")] = None,
    metrics: Annotated[str, typer.Option(help="Metric set: offline, standard, paper, train_offline.")] = "offline",
    fidelity: Annotated[float, typer.Option(help="0 vivid to 1 faithful.")] = 0.5,
    json_file: Annotated[str | None, typer.Option("--json", help="Write JSON to a file, or - to print it.")] = None,
) -> None:
    """Score images of any origin with the same metrics and reward as `sr upscale`."""
    from sr_core.scoring import local_pixels, score_files

    result = score_files(
        images, reference=reference, lq=lq, metric_set=metrics, fidelity_weight=fidelity, read=local_pixels
    )
    if json_file is not None:
        _write_json(result, json_file)
        return
    for image in result["images"]:
        reward = "" if image["reward"] is None else f"  reward {image['reward']:.3f}"
        scores = "  ".join(f"{name} {value:.4g}" for name, value in image["scores"].items())
        typer.echo(f"{image['file']}{reward}  {scores}")
    for entry in result["left_out"]:
        typer.echo(f"left out: {entry['name']}: {entry['reason']}", err=True)
    for notice in result["notices"]:
        typer.echo(f"note: {notice}", err=True)


@app.command()
def join(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    images: Annotated[
        list[Path] | None, typer.Argument(help="Outputs of other tools: images of the run's size, folders or zips.")
    ] = None,
    model: Annotated[
        list[Path] | None, typer.Option(help="Weights of a network that spandrel opens; it restores the run's photo.")
    ] = None,
) -> None:
    """Let outputs of other tools join a run as candidates; names become labels and the group is ranked anew."""
    from tempfile import TemporaryDirectory

    from sr_core.images import read_output
    from sr_core.joining import collect_members, join_baseline, join_images
    from sr_core.runs import Run

    if not images and not model:
        raise ConfigError("there must be an image, a folder, a zip or --model to join")
    now, notes = Run.open(run), list[str]()
    if images:
        with TemporaryDirectory(prefix="sr-join-") as folder:
            joined = join_images(now, collect_members(images, Path(folder)), read=read_output)
        now, notes = joined.run, [*joined.notes]
    for weights in model or ():
        joined = join_baseline(now, weights)
        now, notes = joined.run, [*notes, *joined.notes]
    for note in notes:
        typer.echo(f"note: {note}", err=True)
    _print_ranking(now)


@app.command()
def bench(
    runs: Annotated[int, typer.Option(help="Counted runs after one warm-up.", min=1)] = 5,
    large: Annotated[bool, typer.Option("--large/--no-large", help="Also measure memory on 1024 px.")] = True,
    json_file: Annotated[str | None, typer.Option("--json", help="Write JSON to a file, or - to print it.")] = None,
) -> None:
    """Time the main job in units of one float32 pass of the prior, and measure its memory."""
    from sr_core.bench import bench as run_bench
    from sr_core.bench import describe

    figures = run_bench(runs=runs, large=large)
    if json_file is not None:
        _write_json(figures, json_file)
    if json_file != "-":
        typer.echo(describe(figures))


@app.command()
def weights(
    backbone: Annotated[str | None, typer.Argument(help="One backbone; all if left out.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch what the hub has of the missing parts.")] = False,
) -> None:
    """Say which weights of the large backbones are here, which are missing, and how to get them."""
    from sr_core.backbones import BACKBONES, spec_of
    from sr_core.backbones.weights import describe_parts, download_parts

    if download and backbone is None:
        raise ConfigError("name the backbone whose weights to fetch, such as: sr weights c-sd2 --download")
    names = [name for name, spec in BACKBONES.items() if spec.parts] if backbone is None else [backbone]
    for name in names:
        spec = spec_of(name)
        if download:
            for line in download_parts(name, spec):
                typer.echo(line)
        typer.echo(describe_parts(name, spec))


@app.command()
def merge_loras(
    out: Annotated[Path, typer.Argument(help="A .safetensors file as diffusers saves it, or a PEFT folder.")],
    loras: Annotated[list[Path], typer.Argument(help="LoRA files or PEFT folders of one network.")],
    weight: Annotated[list[float] | None, typer.Option(help="Factor of each LoRA; 1 if left out.")] = None,
    component: Annotated[str, typer.Option(help="Network in its pipeline: transformer or unet.")] = "transformer",
) -> None:
    """Write one LoRA that equals the sum of several, such as the dual LoRA of ASASR; needs no base model."""
    from sr_core.backbones.lora_files import read_lora, sum_loras, write_lora

    if weight is not None and len(weight) != len(loras):
        raise ConfigError(f"every LoRA must have a weight or none: got {len(loras)} LoRA and {len(weight)} weights")
    total = sum_loras([read_lora(path, component=component) for path in loras], weight)
    typer.echo(f"{write_lora(out, total, component=component)}: {len(total.down)} layers")


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(VERSION)


def main() -> None:
    """Run one command; exit 2 with one line if the user's input is at fault."""
    run_commands(app, "sr")
