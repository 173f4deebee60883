"""Ties this process to the one that started it."""

import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1  # prctl(2)


def end_with_parent() -> None:
    """Let the kernel send SIGTERM to this process when its parent is gone.

    A hub that is killed cannot stop its services, and the console of the next hub needs
    the port. Where the kernel is no Linux, nothing happens.
    """
    parent = os.getppid()
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is None:
        return
    prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if os.getppid() != parent:  # it went before the kernel knew
        os.kill(os.getpid(), signal.SIGTERM)
