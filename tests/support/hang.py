"""Stops every thread of a process but its main one, by ptrace(2), until this program is ended.

To the process that is what a pipeline that hangs in a driver or a lock looks like; nothing in it helps.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from pathlib import Path

SEIZE, INTERRUPT, WALL = 0x4206, 0x4207, 0x40000000
libc = ctypes.CDLL(None, use_errno=True)
pid = int(sys.argv[1])
threads = [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir() if int(task.name) != pid]
for thread in threads:
    for request in (SEIZE, INTERRUPT):
        if libc.ptrace(request, thread, None, None) != 0:
            sys.exit(f"ptrace {request:#x} of {thread}: {os.strerror(ctypes.get_errno())}")
print(len(threads), flush=True)
while threads:  # a traced thread that died holds its process until it was waited for
    for thread in list(threads):
        done, status = os.waitpid(thread, os.WNOHANG | WALL)
        if done and (os.WIFEXITED(status) or os.WIFSIGNALED(status)):
            threads.remove(thread)
    time.sleep(0.05)
