"""Model families: one folder each, readable alone."""
