"""The training commands: `python -m train COMMAND RECIPE [section.key=value ...]`."""

from pathlib import Path
from typing import Annotated

import typer

from sr_core.commands import run_commands
from sr_core.errors import ConfigError

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

RecipePath = Annotated[Path, typer.Argument(help="YAML recipe, see train/recipes.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="section.key=value, read as YAML.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the newest finished checkpoint.")]
OnlyRows = Annotated[str, typer.Option(help="Parts of row names, or =NAME, between semicolons.")]


def _names(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(";") if part)


@app.command()
def data(
    sources: Annotated[
        list[str],
        typer.Argument(help="RECIPE [section.key=value ...], or folders of photographs and Debian packages of some."),
    ],
    out: Annotated[Path | None, typer.Option(help="Folder for the packed crops; not with a recipe.")] = None,
    crops_per_photo: Annotated[int | None, typer.Option(min=1, help="10 by default; not with a recipe.")] = None,
    seed: Annotated[int, typer.Option(help="Of the crops' places; a recipe's own seed is of its training.")] = 0,
) -> None:
    """Pack photographs into the crops that a recipe reads."""
    if sources[0].endswith((".yaml", ".yml")):
        from train.config import SftRecipe, load_recipe

        given = {"--out": ("data.crops", out), "--crops-per-photo": ("data.crops_per_photo", crops_per_photo)}
        for option, (key, value) in given.items():
            if value is not None:
                raise ConfigError(f"{option} must be left out with a recipe, got {value}; use {key}={value}")
        loaded = load_recipe(SftRecipe, Path(sources[0]), tuple(sources[1:]))
        if not loaded.data.photos:
            raise ConfigError(f"{sources[0]} must name data.photos, what to pack; it names none")
        sources, out, crops_per_photo = list(loaded.data.photos), Path(loaded.data.crops), loaded.data.crops_per_photo
    if out is None:
        raise ConfigError("--out must name the folder for the crops where no recipe does")
    from train.data import pack
    from train.packages import photo_folders, photos_of

    with photo_folders(sources) as folders:
        photos = [path for _, path in photos_of(sources, folders)]
        count = pack(photos, out, crops_per_photo=10 if crops_per_photo is None else crops_per_photo, seed=seed)
    typer.echo(f"{count} crops in {out}, placed by seed {seed}")


@app.command()
def sft(
    recipe: RecipePath,
    overrides: Overrides = None,
    resume: Resume = False,
) -> None:
    """Train the flow head of the compact backbone."""
    from train.config import SftRecipe, load_recipe

    loaded = load_recipe(SftRecipe, recipe, tuple(overrides or ()))
    from train.sft import train_sft

    typer.echo(train_sft(loaded, resume=resume))


@app.command()
def curate(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Draw, score and pair candidates of many photographs; a killed run goes on where it was."""
    from train.config import load_recipe
    from train.preference_config import CurateRecipe

    loaded = load_recipe(CurateRecipe, recipe, tuple(overrides or ()))
    from sr_core.preference_data.statistics import curation_summary
    from train.curate import curate as run

    folder = run(loaded)
    typer.echo(curation_summary(folder))
    typer.echo(folder)


@app.command()
def adversary(
    recipe: RecipePath,
    overrides: Overrides = None,
    resume: Resume = False,
    ranks: Annotated[
        tuple[int, int, int] | None, typer.Option(help="Train one for each of three ranks, and compare them.")
    ] = None,
) -> None:
    """Train the adversary of a recipe's section `adversary` on the failures of baseline restorers."""
    from train.config import load_recipe
    from train.preference_config import PreferRecipe

    loaded = load_recipe(PreferRecipe, recipe, tuple(overrides or ()))
    if ranks is not None and resume:
        raise ConfigError("--ranks goes on by itself; leave --resume out")
    from train.adversary import judged_text, rank_sweep, sweep_text, train_adversary

    if ranks is not None:
        typer.echo(sweep_text(loaded, rank_sweep(loaded, ranks)))
        return
    folder = train_adversary(loaded, resume=resume)
    typer.echo(judged_text(loaded))
    typer.echo(folder)


@app.command()
def prefer(recipe: RecipePath, overrides: Overrides = None, resume: Resume = False) -> None:
    """Train an adapter on preference pairs."""
    from train.config import load_recipe
    from train.preference_config import PreferRecipe

    loaded = load_recipe(PreferRecipe, recipe, tuple(overrides or ()))
    from train.prefer import train_prefer

    typer.echo(train_prefer(loaded, resume=resume))


@app.command("one-step")
def one_step(recipe: RecipePath, overrides: Overrides = None, resume: Resume = False) -> None:
    """Train restoration in one step from an adaptive level."""
    from train.config import load_recipe
    from train.one_step_config import OneStepRecipe

    loaded = load_recipe(OneStepRecipe, recipe, tuple(overrides or ()))
    from train.one_step import train_one_step

    typer.echo(train_one_step(loaded, resume=resume))


@app.command("evaluate-one-step")
def evaluate_one_step(
    photos: Annotated[Path, typer.Option(help="Held-out photographs.")],
    weights: Annotated[Path | None, typer.Option(help="One-step weights; the shipped ones by default.")] = None,
    presets: Annotated[str, typer.Option(help="Degradation presets, comma-separated.")] = "bicubic,real-esrgan",
    crop: Annotated[int, typer.Option(help="Restore only the middle CROP px of each; 0 means all.", min=0)] = 0,
    limit: Annotated[int, typer.Option(help="Use only this many photographs; 0 means all.")] = 0,
    out: Annotated[Path, typer.Option(help="JSON file for everything.")] = Path("runs/one_step.json"),
    levels: Annotated[Path | None, typer.Option(help="Also write the levels alone, as the page draws them.")] = None,
) -> None:
    """Hold one-step restoration against the prior and the four-step model: reward, LSD, cost, and its levels."""
    import json

    from sr_core.backbones.compact_one_step import ONE_STEP_FILE
    from sr_core.files import replace_text
    from train.evaluate_one_step import OneStepEvaluation, describe
    from train.evaluate_one_step import evaluate_one_step as run

    if crop % 4:
        raise ConfigError(f"--crop must be a multiple of 4, got {crop}")
    out.parent.mkdir(parents=True, exist_ok=True)
    settings = OneStepEvaluation(photos=photos, presets=tuple(presets.split(",")), crop_px=crop, limit=limit)
    content = run(weights or ONE_STEP_FILE, settings, out)
    if levels is not None:
        replace_text(levels, json.dumps(content["level"]) + "\n")
    typer.echo(describe(content))


@app.command()
def rounds(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Repeat curation and preference training until photographs that never train say stop."""
    from train.config import load_recipe
    from train.preference_config import PreferRecipe

    loaded = load_recipe(PreferRecipe, recipe, tuple(overrides or ()))
    from train.rounds import run_rounds

    typer.echo(run_rounds(loaded))


@app.command()
def ablate(
    recipe: RecipePath,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="Folder of the short runs and the table.")] = Path("runs/ablations"),
    only: OnlyRows = "",
) -> None:
    """Train and judge one changed setting at a time; the table says what each is worth."""
    from train.config import load_recipe
    from train.preference_config import PreferRecipe

    load_recipe(PreferRecipe, recipe, tuple(overrides or ()))
    from train.ablations import run_ablations, table

    rows = run_ablations(recipe, tuple(overrides or ()), out, _names(only))
    typer.echo(table(rows))


@app.command()
def tradeoff(
    folders: Annotated[list[Path], typer.Argument(help="Folders of `ablate` with judged rows.")],
    out: Annotated[Path, typer.Option(help="PNG file.")] = Path("runs/tradeoff.png"),
    only: OnlyRows = "",
) -> None:
    """Draw what every ablation row gained in reward against what it gained or lost where nothing trained."""
    from train.tradeoff import draw_trade_offs, read_trade_offs

    rows = read_trade_offs(folders, _names(only))
    draw_trade_offs(rows, out)
    typer.echo(f"{len(rows)} {'row' if len(rows) == 1 else 'rows'} in {out}")


@app.command()
def contrast(
    out: Annotated[Path, typer.Argument(help="Folder of `ablate` with finished rows.")],
    ours: Annotated[str, typer.Argument(help="A row's name, or several between semicolons, of which the best counts.")],
    theirs: Annotated[str, typer.Argument(help="What it is compared with, in the same way.")],
    equal_winner_error: Annotated[
        bool, typer.Option("--equal-winner-error", help="Read the further row where its winners moved equally far.")
    ] = False,
) -> None:
    """Compare two kinds of ablation rows, each at its best setting or at equal movement of the winners."""
    from train.contrast import contrast as run

    typer.echo(run(out, _names(ours), _names(theirs), equal_winner_error=equal_winner_error))


@app.command()
def export(
    dataset: Annotated[Path, typer.Argument(help="Folder that `curate` or the page's export made.")],
    out: Annotated[Path, typer.Option(help="Folder for the exported table, or for the runs.")],
    kind: Annotated[str, typer.Option(help="pickapic, trl or runs.")] = "pickapic",
) -> None:
    """Write a preference dataset in the columns of Pick-a-Pic or of TRL, or each of its groups as a run folder."""
    if kind == "runs":
        from train.group_runs import write_runs

        typer.echo(f"{len(write_runs(dataset, out))} runs in {out}")
        return
    from train.exports import export as run

    typer.echo(run(dataset, out, kind))


@app.command()
def spreads(
    dataset: Annotated[Path, typer.Argument(help="Folder that `curate` made.")],
    out: Annotated[Path | None, typer.Option(help="JSON file; the shipped one by default.")] = None,
) -> None:
    """Write the mean spreads of a dataset's groups, with which the page weighs a photo alone."""
    from sr_core.preference_data.mean_spreads import SHIPPED, write_mean_spreads

    typer.echo(write_mean_spreads(dataset, out or SHIPPED))


@app.command()
def publish(
    run: Annotated[Path, typer.Argument(help="Output folder of `prefer` or `iqa`, trained and evaluated.")],
    name: Annotated[str, typer.Option(help="Name of the adapter: hpo, sobolev_dpo, as_dpo, iqa_amo or iqa_ft.")],
) -> None:
    """Install a trained adapter, with its model card, where the page and `sr` find it."""
    if name.startswith("iqa_"):
        from train.iqa_publish import publish_iqa

        typer.echo(publish_iqa(run, name))
        return
    from train.publish import publish as run_publish

    typer.echo(run_publish(run, name))


@app.command("iqa-targets")
def iqa_targets(
    recipe: RecipePath,
    overrides: Overrides = None,
    only_made: Annotated[bool, typer.Option("--only-made", help="Close the dataset with what is there.")] = False,
) -> None:
    """Make several enhanced targets for each crop, as a recipe of `iqa` says."""
    from train.config import load_recipe
    from train.iqa_config import IqaRecipe

    loaded = load_recipe(IqaRecipe, recipe, tuple(overrides or ()))
    from train.iqa_targets import make_targets

    typer.echo(make_targets(loaded, only_made=only_made))


@app.command()
def iqa(recipe: RecipePath, overrides: Overrides = None, resume: Resume = False) -> None:
    """Train an adapter on targets that a quality metric chooses, or on the metric itself."""
    from train.config import load_recipe
    from train.iqa_config import IqaRecipe

    loaded = load_recipe(IqaRecipe, recipe, tuple(overrides or ()))
    from train.iqa_guided import train_iqa

    typer.echo(train_iqa(loaded, resume=resume))


@app.command("iqa-gradients")
def iqa_gradients(
    photo: Annotated[Path, typer.Argument(help="A photograph of at least 192 px a side; its middle is used.")],
) -> None:
    """Print which metrics have a gradient that finite differences confirm."""
    from train.iqa_gradients import check_photo, gradient_table

    typer.echo(gradient_table(check_photo(photo)))


@app.command("iqa-study")
def iqa_study(
    sources: Annotated[list[Path], typer.Argument(help="Votes of the page, or CSV or Parquet tables of pairs.")],
    runs: Annotated[list[str] | None, typer.Option(help="Run folders that votes are about; may be repeated.")] = None,
    lower: Annotated[list[str] | None, typer.Option(help="Metric of a table of which lower is better.")] = None,
) -> None:
    """Print how metrics agree with people, who is right where another errs, and the best pair and triple."""
    from train.iqa_study import num_foreign_votes, read_verdicts, study, study_text

    typer.echo(study_text(study(read_verdicts(sources, tuple(runs or ()), tuple(lower or ())))))
    foreign = num_foreign_votes(sources, tuple(runs or ()))
    if foreign:
        typer.echo(f"{foreign} votes are on runs that --runs does not name (not counted).", err=True)


@app.command("iqa-attack")
def iqa_attack(
    recipe: RecipePath,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="Folder of the runs, the table and the figure.")] = Path("runs/iqa_attack"),
) -> None:
    """Raise a quality score with all weights and with a LoRA, and compare what else changes at equal score."""
    from train.config import load_recipe
    from train.iqa_config import LONG, IqaRecipe

    load_recipe(IqaRecipe, recipe, (*LONG, *(overrides or ())))
    from train.iqa_attack import run_attacks

    typer.echo(run_attacks(recipe, tuple(overrides or ()), out))


@app.command("iqa-rows")
def iqa_rows(runs: Annotated[list[Path], typer.Argument(help="Output folders of `iqa`, evaluated.")]) -> None:
    """Print judged runs of `iqa` as rows of the README's table."""
    from train.iqa_publish import iqa_rows as rows

    typer.echo(rows(runs))


@app.command("held-out")
def held_out(
    sources: Annotated[list[str], typer.Argument(help="Folders of photographs, or Debian packages that hold some.")],
    out: Annotated[Path, typer.Option(help="Folder for the crops.")],
    avoid: Annotated[
        list[Path] | None, typer.Option(help="Photographs that must not be among them; may be repeated.")
    ] = None,
    crops: Annotated[int | None, typer.Option(min=1, help="How many; 60 by default.")] = None,
    listed: Annotated[
        Path | None, typer.Option("--from", help="Cut the crops of this held_out.json again, each by its SHA-256.")
    ] = None,
) -> None:
    """Cut crops that judge from photographs that no other folder holds.

    With --from, SOURCES hold one folder for each source of the list, by its name.
    """
    if listed is not None:
        if avoid or crops is not None:
            raise ConfigError("--from takes the crops of its list: leave --avoid and --crops out")
        from train.held_out import cut_held_out_again

        typer.echo(cut_held_out_again(listed, sources, out))
        return
    if not avoid:
        raise ConfigError("--avoid must name the photographs that train, or --from a list of crops")
    from train.held_out import make_held_out

    typer.echo(make_held_out(sources, out, avoid=avoid, count=60 if crops is None else crops))


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder of `sft`, `adversary`, `prefer` or `rounds`.")],
) -> None:
    """Write a run's report as one HTML page and its figures as PNG."""
    from train.report import write_report

    typer.echo(write_report(run))


@app.command()
def bench(
    runs: Annotated[int, typer.Option(help="Counted turns after one warm-up.", min=1)] = 9,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
) -> None:
    """Time training steps in units of a supervised one, and compare their memory."""
    import json

    from sr_core.files import replace_text
    from train.bench import bench as run_bench
    from train.bench import describe

    figures = run_bench(runs)
    if json_file is not None:
        replace_text(json_file, json.dumps(figures, indent=1) + "\n")
    typer.echo(describe(figures))


@app.command("bench-gpu")
def bench_gpu(
    tiny: Annotated[bool, typer.Option("--tiny", help="The same code at tiny size, for any machine.")] = False,
    device: Annotated[str, typer.Option(help="cuda, or cpu with --tiny.")] = "cuda",
    only: Annotated[str, typer.Option(help="Parts of row names, between semicolons; the others stay blank.")] = "",
    runs: Annotated[int, typer.Option(help="Counted turns after one warm-up.", min=1)] = 3,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
) -> None:
    """Measure C-SD2, C-FLUX and FLUX LoRA with random weights: drawing, and training steps."""
    from train.bench_gpu import bench_gpu as run

    typer.echo(run(tiny=tiny, device=device, only=only, runs=runs, json_file=json_file))


@app.command()
def niqe(
    folders: Annotated[list[Path], typer.Argument(help="Folders of good photographs.")],
    out: Annotated[Path, typer.Option(help="File for the statistics, safetensors.")],
) -> None:
    """Fit the statistics that NIQE compares images with."""
    from train.niqe import fit

    fit(folders, out)
    typer.echo(out)


@app.command()
def evaluate(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="RECIPE of `sft`, `prefer` or `iqa`, or the output folder of `sft`.")],
    overrides: Overrides = None,
    photos: Annotated[Path | None, typer.Option(help="Held-out photographs; the recipe's by default.")] = None,
    presets: Annotated[str, typer.Option(help="Degradation presets, comma-separated.")] = "bicubic,real-esrgan",
    seeds: Annotated[int, typer.Option(min=2)] = 8,
    steps: Annotated[int, typer.Option(min=1)] = 4,
    sampler: Annotated[str, typer.Option(help="euler or heun.")] = "euler",
    schedule: Annotated[str, typer.Option(help="geometric, power or linear.")] = "geometric",
    limit: Annotated[int, typer.Option(help="Use only this many photographs; 0 means all.")] = 0,
    out: Annotated[Path | None, typer.Option(help="JSON file; heldout.json in the run by default.")] = None,
    adapter: Annotated[
        str, typer.Option(help="PEFT folder, or NAME of an installed adapter, in place of the one that was trained.")
    ] = "",
    against: Annotated[
        str, typer.Option(help="PEFT folder, or NAME, in place of the model before training (sft).")
    ] = "",
) -> None:
    """Measure on held-out photographs: a head against the prior, or an adapter against the model before it.

    For a recipe of `prefer` or `iqa` its section `held_out` says on what. --adapter and --against are for `prefer`, and
    with --adapter nothing has to be trained; the other options are for `sft`.
    """
    if adapter or against:
        options = ("photos", "presets", "seeds", "steps", "sampler", "schedule", "limit", "out")
        sources = {name: context.get_parameter_source(name) for name in options}
        given = [f"--{name}" for name, source in sources.items() if source is not None and source.name != "DEFAULT"]
        if given:
            raise ConfigError(
                f"--adapter and --against must come without {', '.join(given)}: the recipe's held_out says on what, "
                "as in held_out.photos=[FOLDER] held_out.presets=[NAME] held_out.limit=N"
            )
        _evaluate_pair(run, tuple(overrides or ()), adapter, against)
        return
    if run.suffix in (".yaml", ".yml"):
        from train.config import SftRecipe, load_recipe, recipe_sections
        from train.preference_config import PreferRecipe

        if "objective" in recipe_sections(run):
            preference = load_recipe(PreferRecipe, run, tuple(overrides or ()))
            from train.judge import judge_recipe
            from train.trainees import trained_folder

            judged = judge_recipe(preference, trained_folder(preference))
            from train.processes import Processes
            from train.report import write_report

            if Processes().is_main:
                typer.echo(judged["text"])
                typer.echo(write_report(Path(preference.output)))
            return
        if "targets" in recipe_sections(run):
            from train.iqa_config import IqaRecipe

            guided = load_recipe(IqaRecipe, run, tuple(overrides or ()))
            from train.iqa_publish import judge_iqa

            typer.echo(judge_iqa(guided)["text"])
            return
        loaded = load_recipe(SftRecipe, run, tuple(overrides or ()))
        run = Path(loaded.output)
        if photos is None and loaded.validation is not None:
            photos = Path(loaded.validation.photos)
    elif overrides:
        raise ConfigError(f"section.key=value needs a recipe, got the folder {run}")
    if photos is None:
        raise ConfigError("--photos must name the folder of held-out photographs")
    from train.evaluate import EvaluationSettings, evaluate_run

    settings = EvaluationSettings(
        photos=photos,
        presets=tuple(presets.split(",")),
        num_seeds=seeds,
        num_steps=steps,
        sampler=sampler,
        schedule=schedule,
        limit=limit,
    )
    content = evaluate_run(run, settings, out or run / "heldout.json")
    for name, rows in content["tables"].items():
        typer.echo(f"\n{name}\n{rows}")
        for gate, figures in content["gates"][name].items():
            typer.echo(f"  {gate}: {figures}")


def _evaluate_pair(recipe: Path, overrides: tuple[str, ...], adapter: str, against: str) -> None:
    """Print how an adapter compares with another on the held-out photographs of a recipe of `prefer`."""
    from train.config import load_recipe, recipe_sections
    from train.preference_config import PreferRecipe

    if recipe.suffix not in (".yaml", ".yml") or "objective" not in recipe_sections(recipe):
        raise ConfigError(f"--adapter and --against need a recipe of prefer, got {recipe}")
    loaded = load_recipe(PreferRecipe, recipe, overrides)
    from train.judge import judge_pair
    from train.processes import Processes

    judged = judge_pair(loaded, adapter, against)
    if Processes().is_main:
        typer.echo(judged["text"])


def main() -> None:
    """Run one command; exit 2 with one line if the user's input is at fault."""
    run_commands(app, "python -m train")


if __name__ == "__main__":
    main()
