"""Where results are kept, and how they are read, brought along and written as tables."""
