"""Named errors: what must hold, what came, what to do."""


class SRError(Exception):
    """Base of every error that a user of this project is meant to read."""


class InputError(SRError, ValueError):
    """The caller's photo, value or request cannot be used as it is."""


class ConfigError(SRError, ValueError):
    """A recipe, option or name is not valid."""


class WeightsError(SRError, RuntimeError):
    """Weights are missing, damaged or of another layout."""
