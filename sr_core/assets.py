"""Where the shipped weights, figures and example photographs lie."""

from pathlib import Path

ASSETS = Path(__file__).resolve().parent.parent / "assets"
