"""The process of a program: its memory pages, its devices, its compiled programs and its signals.

    if __name__ == "__main__":
        runtime.prepare()
        main()

On Linux, malloc gets XLA's large buffers from the system at each call, returns them after it, and
each call takes a page fault for every 4 kB. Huge pages of 2 MB avoid that: a training step of
pets256_small took 1.34 s instead of 1.54 and 440 page faults instead of 126,000 (bfloat16, batch 8,
2 cores of an AMD EPYC with AVX-512; benchmarks/train.py). glibc reads this setting only when a
process starts, so `prepare` restarts the program once in place: same process id, arguments and
output. Set GLIBC_TUNABLES yourself, to any value, and it does not.

Making malloc keep the buffers in one pool for all threads is worse than doing nothing: compiling
fragments that pool, and one thread at a time searches it for each small buffer of each step.
"""

import contextlib
import ctypes
import os
import platform
import signal
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

# Huge pages, if the kernel grants them on request.
TUNABLES = "glibc.malloc.hugetlb=1"
# Marks the restarted program, in case GLIBC_TUNABLES is dropped, as in programs with raised
# privileges.
RESTARTED = "PETSAM_RESTARTED"
DEVICES = "--xla_force_host_platform_device_count"
# Steps after which the processes of a run exchange whether to stop.
AGREE_EVERY = 8
# Whether `prepare` was called, which only programs do.
_own_process = False


def prepare(devices_per_host: int | None = None) -> None:
    """Call first in a program, never in a library or a notebook: it may restart the process.

    It does not if GLIBC_TUNABLES is set, nor on systems without glibc. `devices_per_host` splits
    the CPU into that many JAX devices, unless XLA_FLAGS already sets their number; JAX reads it
    when it first computes, so it may be imported before.
    """
    global _own_process
    _own_process = True
    flags = os.environ.get("XLA_FLAGS", "")
    if devices_per_host is not None and DEVICES not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {DEVICES}={devices_per_host}".strip()
    if os.environ.pop(RESTARTED, None) or "GLIBC_TUNABLES" in os.environ or not _can_restart():
        return
    os.environ |= {"GLIBC_TUNABLES": TUNABLES, RESTARTED: "1"}
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def clear_jit_caches() -> None:
    """Drop all compiled programs, but only in a process that called `prepare`.

    For use once after a model is initialized: that takes hundreds of programs, a quarter of a
    gigabyte in all, which are never called again. In a notebook or a test they may be.
    """
    import jax

    if _own_process:
        jax.clear_caches()


def release_memory() -> None:
    """Return freed memory to the system.

    For use once after a model is built or a step compiled: both free gigabytes in small pieces,
    which malloc keeps, and a step would add to. Does nothing if malloc has no such call.
    """
    # None is the program itself. AttributeError: not glibc; TypeError: Windows.
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def use_compilation_cache() -> None:
    """Cache compiled programs in ~/.cache/petsam_jax, so that a second start takes seconds.

    A directory that JAX is already configured with takes precedence; where nothing can be written,
    as in a container without a home, nothing is cached. Call it before anything is compiled.
    """
    import jax

    if jax.config.jax_compilation_cache_dir is not None:
        return
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        (caches / "petsam_jax").mkdir(parents=True, exist_ok=True)
    # RuntimeError: there is no home directory.
    except (OSError, RuntimeError):
        return
    if os.access(caches / "petsam_jax", os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(caches / "petsam_jax"))
        # Small programs too: initializing a model takes hundreds of them.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


class StopSignal:
    """While active, turns SIGTERM and Ctrl-C into `requested`, to stop between two steps or frames.

    A second signal has its usual effect. Outside the main thread, where Python has no signals,
    nothing is ever requested.
    """

    def __init__(self, signals: Iterable[int] = (signal.SIGTERM, signal.SIGINT)):
        self.signals, self.requested, self._agreed = tuple(signals), "", ""
        self._old = {}

    def agreed(self, step: int) -> str:
        """`requested`, on all processes of a run after the same step, so that all of them save.

        Every process must call it after every step. They exchange it at every AGREE_EVERY-th step
        only, since that waits for the devices.
        """
        import jax

        if jax.process_count() == 1:
            return self.requested
        if step % AGREE_EVERY == 0 and not self._agreed:
            import numpy as np
            from jax.experimental.multihost_utils import process_allgather

            numbers = [signal.Signals(number).name for number in self.signals]
            mine = np.int32(1 + numbers.index(self.requested) if self.requested else 0)
            if newest := int(process_allgather(mine).max()):
                self._agreed = numbers[newest - 1]
        return self._agreed

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            self._old = {number: signal.signal(number, self._handle) for number in self.signals}
        return self

    def __exit__(self, *_) -> None:
        while self._old:
            number, handler = self._old.popitem()
            # None: a handler that was not installed from Python and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _handle(self, number, frame) -> None:
        if self.requested:
            self.__exit__()
            signal.raise_signal(number)
            return
        # Its name, which is a true value.
        self.requested = signal.Signals(number).name


def _can_restart() -> bool:
    """Whether this is glibc, and a program that can be read again: not from standard input."""
    from_file = bool(sys.argv) and sys.argv[0] not in ("", "-")
    glibc = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
    return glibc and from_file and bool(sys.executable)
