"""The lab: plan a comparison, run it, store it, and say what it shows."""
