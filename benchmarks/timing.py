"""Timing of compiled functions, shared by several benchmarks.

After a warm-up the functions run in turn, so that a slower phase of the machine affects all alike.
"""

import datetime
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

LEAST_ROUNDS = 5
STATUS, RESET_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Timing(NamedTuple):
    """Seconds per call."""

    median: float
    least: float
    most: float

    def __str__(self) -> str:
        """Milliseconds, such as 12.3 (12.1-14.0)."""
        median, least, most = (
            f"{1e3 * s:#.3g}".rstrip(".") if s < 1 else f"{1e3 * s:.0f}" for s in self
        )
        return f"{median} ({least}-{most})"


def in_turn(calls: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, Timing]:
    """Time the calls in turn for `seconds`, at least five rounds, after two warm-up calls each.

    A call returns the arrays to wait for.
    """
    for call in calls.values():
        jax.block_until_ready(call())
        jax.block_until_ready(call())
    times = {name: [] for name in calls}
    start, rounds = time.perf_counter(), 0
    while rounds < LEAST_ROUNDS or time.perf_counter() - start < seconds:
        for name, call in calls.items():
            before = time.perf_counter()
            jax.block_until_ready(call())
            times[name].append(time.perf_counter() - before)
        rounds += 1
    return {name: Timing(statistics.median(t), min(t), max(t)) for name, t in times.items()}


def reset_peak() -> None:
    """Restart `peak_megabytes` from here, on Linux."""
    if RESET_PEAK.exists():
        RESET_PEAK.write_text("5")


def peak_megabytes() -> float:
    """Peak memory of the process, on Linux since `reset_peak`."""
    if STATUS.exists():
        lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def setting() -> str:
    """Date, processor, memory settings and versions, to print above each table."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.environ.get("GLIBC_TUNABLES", "default malloc")
    return (
        f"{datetime.date.today()}, {cores} cores of {_processor()}, {jax.devices()[0].platform}, "
        f"Python {platform.python_version()}, jax {jax.__version__}, {memory}"
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or platform.machine()
    lines = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
    lines = {name.strip(): value.strip() for name, value in lines.items()}
    wide = [flag for flag in ("avx512f", "avx512_bf16") if flag in lines.get("flags", "").split()]
    return " ".join([lines.get("model name", platform.machine()), *wide])


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table with all columns but the first right-aligned."""
    align = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, align, *rows])
