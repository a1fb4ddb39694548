"""Everything that inference, the page and training share."""
