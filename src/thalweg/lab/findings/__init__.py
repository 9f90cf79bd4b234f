"""What a study found: figures from the statistics, and what they come to in words."""
