"""Reads a video through in a process of its own, which the kernel ends when it takes too much.

FFmpeg believes what a file says of itself while it opens it: 700 bytes can promise a table of gigabytes. So a
file is opened and its packets are read here before that is done where the streams are. Nothing is decoded,
and nothing of the server is imported.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

CPU_SECONDS = 5
MEMORY = 384 * 2**20
"""Bytes in memory, of which Python and FFmpeg take 35 million."""
LONG_AS_SAID = ("matroska", "flv")
"""Containers whose header says how long they are, and which are read to any point without complaint."""
SLACK = 0.5
"""Seconds that a file may be shorter than it says."""
BROKEN = "The video is broken or cut off."
HEAVY = "Opening the video takes too long or too much memory."
LOOK = 0.005
"""Seconds between two looks at the memory."""
WAIT = 0.25
"""Seconds between two looks whether anybody still waits."""


def trouble(file: Any, container: str, options: dict[str, str], stopped: threading.Event) -> str | None:
    """What is wrong with a file that FFmpeg shall open, if anything; one in memory is put on the disk. Raises
    ValueError if it is `stopped` meanwhile.
    """
    source = file.fileno()
    file.flush()
    command = [sys.executable, "-I", __file__, container, json.dumps(options)]
    process = subprocess.Popen(  # noqa: S603
        command, stdin=source, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(WAIT)
            if stopped.is_set():
                raise ValueError("stopped")
    finally:
        process.kill()
        process.wait()
    if not process.returncode:
        return None
    ended = process.returncode < 0 or process.returncode == os.EX_OSERR
    return HEAVY if ended else BROKEN


class _Input:
    """The standard input, whose place in the file is the other process' as well, and is left."""

    def __init__(self) -> None:
        self._at, self._size = 0, os.fstat(0).st_size

    def read(self, size: int) -> bytes:
        found = os.pread(0, size, self._at)
        self._at += len(found)
        return found

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at


def _watch() -> None:
    """End the process when it has taken too much. Where a limit of the kernel's lets an allocation fail,
    FFmpeg goes on without a table that it would have where there is no limit.
    """
    while True:
        with open("/proc/self/statm", "rb") as said:
            pages = int(said.read().split()[1])
        if pages * os.sysconf("SC_PAGESIZE") > MEMORY:
            os._exit(os.EX_OSERR)
        time.sleep(LOOK)


def main() -> None:
    """Read the file that is the standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import av

    if os.path.exists("/proc/self/statm"):
        threading.Thread(target=_watch, daemon=True).start()
    with contextlib.suppress(ImportError, ValueError, OSError):  # not on every system
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    container, options = sys.argv[1], json.loads(sys.argv[2])
    with av.open(_Input(), "r", format=container, options=options, metadata_errors="ignore") as source:
        count, end = 0, 0.0
        for packet in source.demux():
            if packet.size and packet.pts is not None:
                count += 1
                end = max(end, (packet.pts + (packet.duration or 0)) * float(packet.time_base or 0))
        said = (source.duration or 0) / av.time_base if container in LONG_AS_SAID else 0.0
    if said > end + SLACK + 2 * said / max(1, count):  # the last one's own duration may not be known
        sys.exit("cut off")


if __name__ == "__main__":
    main()
