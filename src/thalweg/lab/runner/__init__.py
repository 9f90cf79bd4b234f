"""Worker processes, and which run each of them is given."""
