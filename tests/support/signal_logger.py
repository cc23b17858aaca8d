"""A program that writes down its signals, its arguments and its environment, until a file says that it may end."""

import os
import signal
import sys
import time
from pathlib import Path

LOG, END = map(Path, sys.argv[1:3])
WATCHED = ("TERM", "INT", "HUP", "QUIT", "WINCH", "USR1", "USR2", "CONT")


def note(text: str) -> None:
    """Write one line."""
    with LOG.open("a", encoding="ascii") as file:
        file.write(text + "\n")


for name in WATCHED:
    signal.signal(getattr(signal, f"SIG{name}"), lambda number, _frame: note(signal.Signals(number).name))
note(f"ready {os.getpid()} {os.getpgrp()} {os.environ.get('DB', '-')}")
while not END.exists():
    time.sleep(0.02)
sys.exit(5)
