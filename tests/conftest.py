"""What makes all tests faster, and is no part of any."""

import gc
import os

# OpenMP reads it when torch is imported. A thread that spins takes the core from the one that it
# waits for, where a machine is small or shared.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def pytest_collection_finish() -> None:
    """Spare every collection of garbage the modules and tests, which stay to the end."""
    gc.collect()
    gc.freeze()
