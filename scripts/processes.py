"""Ends all that a script started when the script is stopped. A signal of the terminal does not do it:
papermill's kernels have sessions of their own, and trainings are started by kernels."""

import ctypes
import os
import signal
import sys
import threading
from contextlib import suppress

import psutil

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
# set before the first child is ended: what ends afterwards did not finish
stopping = threading.Event()


def adopt_orphans():
    "On Linux, a process whose parent died becomes a child of this one: none is lost from sight"
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_children(patience=5):
    "End every process below this one, first politely; how many there were"
    ended = set()
    for number in (signal.SIGTERM, *[signal.SIGKILL] * 5):
        children = psutil.Process().children(recursive=True)
        if not children:
            break
        for child in children:
            ended.add(child.pid)
            with suppress(psutil.Error):
                child.send_signal(number)
        psutil.wait_procs(children, timeout=patience)
    return len(ended)


def on_stop(tell):
    "At Ctrl-C, SIGTERM or a closed terminal: end all children, write the text that `tell` gives, and leave"
    adopt_orphans()

    def stop(number, frame):
        for each in STOPS:
            signal.signal(each, signal.SIG_IGN)
        stopping.set()
        count = end_children()
        with suppress(OSError):
            os.write(2, f"\n{tell()}\nNo process is left running ({count} were ended).\n".encode())
        os._exit(128 + number)

    for each in STOPS:
        if signal.getsignal(each) is not signal.SIG_IGN:
            signal.signal(each, stop)  # nohup asks to ignore SIGHUP
