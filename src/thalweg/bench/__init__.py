"""How long one step of an optimizer takes, beside torch's and beside what the memory allows."""
