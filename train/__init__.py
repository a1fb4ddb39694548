"""Commands that turn photographs, candidates and rewards into better models."""
