"""Which type inputs of a model's matrix products have in prediction: as in training, or float32.

bfloat16 halves the time of a product on processors with instructions for it, and adds to it on
others, which convert the inputs of each product first. Measured on 2 cores of an AMD EPYC 7003
(AVX2): a tracked frame takes 93 ms in bfloat16 and 71 in float32. Weights are float32 either way;
results differ by rounding.
"""

from pathlib import Path

import jax

CPUINFO = Path("/proc/cpuinfo")
# Names on x86-64 and on ARM.
INSTRUCTIONS = {"avx512_bf16", "amx_bf16", "bf16", "svebf16"}


def fastest_dtype(trained: str) -> str:
    """`trained`, the model's own, or float32 if that is faster on the device in use."""
    if trained == "bfloat16" and jax.default_backend() == "cpu" and not cpu_has_bfloat16():
        return "float32"
    return trained


def cpu_has_bfloat16() -> bool:
    """Whether Linux lists such instructions of the processor; False on other systems."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return False
    entries = (line.partition(":") for line in lines)
    return any(
        name.strip() in ("flags", "Features") and INSTRUCTIONS & set(value.split())
        for name, _, value in entries
    )
