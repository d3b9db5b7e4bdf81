"""What a model's matrix products are rounded to where it is used: as in training, or float32.

bfloat16 halves the time of a product where the processor has instructions for it, and adds to it
where it has none: there each product converts its inputs first. Measured on 2 cores of an AMD EPYC
7003 (AVX2): a tracked frame takes 93 ms in bfloat16 and 71 in float32. Weights are float32 either
way, and answers differ by what rounding does to them.
"""

from pathlib import Path

import jax

CPUINFO = Path("/proc/cpuinfo")
# x86-64, and ARM.
INSTRUCTIONS = {"avx512_bf16", "amx_bf16", "bf16", "svebf16"}


def fastest_dtype(trained: str) -> str:
    """`trained`, a model's own, or float32 if that is faster on the device in use."""
    if trained == "bfloat16" and jax.default_backend() == "cpu" and not cpu_has_bfloat16():
        return "float32"
    return trained


def cpu_has_bfloat16() -> bool:
    """Whether the processor says so; False where systems other than Linux keep it to themselves."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return False
    described = (line.partition(":") for line in lines)
    return any(
        name.strip() in ("flags", "Features") and INSTRUCTIONS & set(value.split())
        for name, _, value in described
    )
