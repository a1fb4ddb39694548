"""What researchers open behind a ranking: one module per view."""
