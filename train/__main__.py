"""The training commands: `python -m train COMMAND RECIPE [section.key=value ...]`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from sr_core.errors import SRError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

RecipePath = Annotated[Path, typer.Argument(help="YAML recipe, see train/recipes.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="section.key=value, read as YAML.")]


@app.command()
def data(
    folders: Annotated[list[Path], typer.Argument(help="Folders of photographs.")],
    out: Annotated[Path, typer.Option(help="Folder for the packed crops.")],
    crops_per_photo: Annotated[int, typer.Option(min=1)] = 10,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Pack photographs into the crops that a recipe reads."""
    from train.data import pack

    count = pack(folders, out, crops_per_photo=crops_per_photo, seed=seed)
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


def main() -> None:
    """Run one command; exit 2 with one line if the user's input is at fault."""
    try:
        app(prog_name="python -m train")
    except SRError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
