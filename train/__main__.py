"""The training commands: `python -m train COMMAND RECIPE [section.key=value ...]`."""

from pathlib import Path
from typing import Annotated

import typer

from sr_core.commands import run_commands

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

RecipePath = Annotated[Path, typer.Argument(help="YAML recipe, see train/recipes.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="section.key=value, read as YAML.")]


@app.command()
def data(
    sources: Annotated[list[str], typer.Argument(help="Folders of photographs, or Debian packages that hold some.")],
    out: Annotated[Path, typer.Option(help="Folder for the packed crops.")],
    crops_per_photo: Annotated[int, typer.Option(min=1)] = 10,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Pack photographs into the crops that a recipe reads."""
    from train.data import pack
    from train.packages import HELD_OUT, photo_folders

    with photo_folders(sources) as folders:
        count = pack(folders, out, crops_per_photo=crops_per_photo, seed=seed, held_out=HELD_OUT)
    typer.echo(f"{count} crops in {out}")


@app.command()
def sft(
    recipe: RecipePath,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest finished checkpoint.")] = False,
) -> None:
    """Train the flow head of the compact backbone."""
    from train.config import SftRecipe, load_recipe

    loaded = load_recipe(SftRecipe, recipe, tuple(overrides or ()))
    from train.sft import train_sft

    typer.echo(train_sft(loaded, resume=resume))


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
    run: Annotated[Path, typer.Argument(help="Output folder of `sft`.")],
    photos: Annotated[Path, typer.Option(help="Folder of held-out photographs.")],
    presets: Annotated[str, typer.Option(help="Degradation presets, comma-separated.")] = "bicubic,real-esrgan",
    seeds: Annotated[int, typer.Option(min=2)] = 8,
    steps: Annotated[int, typer.Option(min=1)] = 4,
    sampler: Annotated[str, typer.Option(help="euler or heun.")] = "euler",
    schedule: Annotated[str, typer.Option(help="geometric, power or linear.")] = "geometric",
    limit: Annotated[int, typer.Option(help="Use only this many photographs; 0 means all.")] = 0,
    out: Annotated[Path | None, typer.Option(help="JSON file; heldout.json in the run by default.")] = None,
) -> None:
    """Measure a head on held-out photographs against the prior and a noise control."""
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


def main() -> None:
    """Run one command; exit 2 with one line if the user's input is at fault."""
    run_commands(app, "python -m train")


if __name__ == "__main__":
    main()
