"""The preference dataset on disk: what the page exports and training reads, one definition of both."""
