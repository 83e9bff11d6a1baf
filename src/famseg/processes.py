"""What this process may use of its machine."""

import os


def cores() -> int:
    """Its CPU cores, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
