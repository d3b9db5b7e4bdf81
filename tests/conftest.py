"""What all tests share: the CPU backend, no silent broadcasting, and made-up data."""

import os
import signal

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Compiling is most of the tests' time: without LLVM's optimizations and XLA's newer emitters it
# takes a fifth of that. The programs compute the same, only more slowly; `XLA_FLAGS= pytest` tests
# those that XLA makes by default, as .ci/run does for the tests of parity.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1 "
    "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters",
)

import jax
import numpy as np
import pytest

from tests.fabricated import official_folder

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session", autouse=True)
def compiled(tmp_path_factory):
    """The folder in which compiled programs are shared: compiling is most of the tests' time.

    `JAX_COMPILATION_CACHE_DIR`, if it is set, so that the next run finds them too; else a folder
    for this run.
    """
    own = tmp_path_factory.getbasetemp()
    # Workers of pytest-xdist have folders of their own beside each other.
    directory = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "compiled"
    directory = os.environ.get("JAX_COMPILATION_CACHE_DIR", directory)
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return str(directory)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """A folder in the official layout, with faults in it."""
    return official_folder(tmp_path_factory.mktemp("official") / "pets")


@pytest.fixture(scope="module")
def data_dir(official, tmp_path_factory):
    """The TFDS data folder made of it."""
    # Here, since TFDS is slow to import and most tests need none of it.
    from petsam_jax.data import prepare

    data_dir = tmp_path_factory.mktemp("data")
    prepare.prepare(data_dir, src=official)
    return data_dir


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium, for tests of the page."""
    # Here, since what imports it skips where there is no browser.
    from tests.browsing import launched

    with launched() as browser:
        yield browser


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_is_heard():
    """A shell starts jobs in the background deaf to it, and tests of it would then fail."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
