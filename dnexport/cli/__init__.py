"""The command line: one file per command; bodies parse, make one call and render."""
