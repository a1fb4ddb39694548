"""One file per backbone behind one protocol; `load_backbone` is the table's door."""
