"""Python's garbage collector, which finds nothing while modules are imported and nothing that matters at the end."""

import atexit
import gc


def relax() -> None:
    """For the start of a command: imports and the end of the process are spared a search through all there is.

    A million objects come with torch and Lightning. Python looks through the young ones after every 700 new ones, and
    through all of them again and again while they come and once more when it ends: 2 of 5.4 s of `import lightning`.
    """
    gc.set_threshold(max(10_000, gc.get_threshold()[0]), *gc.get_threshold()[1:])
    atexit.register(gc.freeze)  # first in, last out: after those who end processes and write files
