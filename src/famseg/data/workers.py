"""What a loader process does first."""

import signal
import sys

import cv2

from famseg.signals import STOPS


def serve_quietly(_: int) -> None:
    """No threads of its own, no words through a progress bar, no ear for what a cluster tells all processes of a job.

    The trainer decides whether to stop; were its workers gone by then, it could not finish its step and save.
    """
    cv2.setNumThreads(0)  # the workers are the threads
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # the bar's lock is as it was at the fork, held or not
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
