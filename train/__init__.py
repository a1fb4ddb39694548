"""Commands that turn photographs, candidates and rewards into trained models."""
