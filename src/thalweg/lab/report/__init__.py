"""The page of a study, its pictures, and the code to paste."""
