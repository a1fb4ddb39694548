"""The project's version, written into every run and file."""

VERSION = "0.1.0"
