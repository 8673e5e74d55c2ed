"""A server of llama.cpp whose address space is capped when it receives SIGUSR1.

The cap is what the process has at that moment, so it is out of memory from then on: the next
request finds no room for what it needs.
"""

from __future__ import annotations

import resource
import runpy
import signal
from pathlib import Path


def _cap(*_: object) -> None:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    in_use = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use, in_use))


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, _cap)
    runpy.run_module("llama_cpp.server", run_name="__main__", alter_sys=True)
