"""Python's garbage collector, which finds nothing in what is imported."""

import gc


def relax() -> None:
    """For the start of a command: it looks for garbage after 10,000 new objects, by default after 700 or 2,000.

    Torch and Lightning bring a million, and it would look through all of them again and again while they come.
    """
    young, *older = gc.get_threshold()
    gc.set_threshold(max(10_000, young), *older)


def spare_imports() -> None:
    """What there is by now is not looked at again, not even when the process ends, which took a second.

    For the moment after the imports: of what comes later, the last look finds what stands in circles, and ends it. Or
    for the last moment of a command that has nothing of that kind.
    """
    gc.freeze()
