"""Web pages of runs: one file each, which needs no network and no other file."""
