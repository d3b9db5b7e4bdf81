"""A prepared program restarts once with the same command, unless the user set tunables."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from petsam_jax import runtime
from petsam_jax.runtime import StopSignal

PROGRAM = """
import json, os, sys
print("started", os.getpid())
from petsam_jax import runtime
runtime.prepare(*map(int, sys.argv[3:]))
env = {name: os.environ.get(name) for name in ["GLIBC_TUNABLES", "XLA_FLAGS", runtime.RESTARTED]}
print(json.dumps({"argv": sys.argv, "orig": sys.orig_argv, "env": env}))
sys.exit(7)
"""
ARGUMENTS = ["an argument", "--flag="]
LINUX = pytest.mark.skipif(not runtime._can_restart(), reason="only with glibc on Linux")


@pytest.fixture
def program(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


def start(folder, *command, stdin=None, **environment):
    """Process ids that it started with, and what it found after `prepare`; checks its status."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in ("GLIBC_TUNABLES", "XLA_FLAGS", runtime.RESTARTED)
    }
    inherited["PYTHONPATH"] = os.pathsep.join([str(Path(runtime.__file__).parents[1]), str(folder)])
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=inherited | environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 7, done.stderr
    *starts, found = done.stdout.splitlines()
    return starts, json.loads(found)


@LINUX
@pytest.mark.parametrize("command", [["program.py"], ["-X", "utf8", "-m", "program"]])
def test_it_restarts_once_with_the_same_command(program, command):
    starts, found = start(program, *command, *ARGUMENTS)
    assert len(starts) == 2 and len(set(starts)) == 1
    assert found["orig"][1:] == [*command, *ARGUMENTS]
    assert found["argv"][1:] == ARGUMENTS
    assert found["env"]["GLIBC_TUNABLES"] == runtime.TUNABLES
    # Children are programs of their own.
    assert found["env"][runtime.RESTARTED] is None


@LINUX
def test_it_restarts_with_code_on_the_command_line(program):
    starts, found = start(program, "-c", PROGRAM, *ARGUMENTS)
    assert len(starts) == 2 and found["argv"] == ["-c", *ARGUMENTS]


def test_tunables_of_the_user_are_kept(program):
    set_by_user = {"GLIBC_TUNABLES": "glibc.malloc.check=0"}
    starts, found = start(program, "program.py", *ARGUMENTS, **set_by_user)
    assert len(starts) == 1
    assert found["env"]["GLIBC_TUNABLES"] == "glibc.malloc.check=0"


def test_it_never_restarts_twice(program):
    starts, _ = start(program, "program.py", *ARGUMENTS, **{runtime.RESTARTED: "1"})
    assert len(starts) == 1


def test_a_program_from_standard_input_is_not_lost(program):
    starts, _ = start(program, "-", *ARGUMENTS, stdin=PROGRAM)
    assert len(starts) == 1


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (None, f"{runtime.DEVICES}=2"),
        ("--xla_dump_to=x", f"--xla_dump_to=x {runtime.DEVICES}=2"),
        (f"{runtime.DEVICES}=4", f"{runtime.DEVICES}=4"),
    ],
)
def test_devices_are_set_unless_the_user_set_them(program, flags, expected):
    given = {"XLA_FLAGS": flags} if flags else {}
    _, found = start(program, "program.py", *ARGUMENTS, "2", **given)
    assert found["env"]["XLA_FLAGS"] == expected


def test_without_a_number_of_devices_no_flag_is_set(program):
    _, found = start(program, "program.py", *ARGUMENTS)
    assert found["env"]["XLA_FLAGS"] is None


def test_jax_sees_the_devices_though_imported_before(program):
    code = (
        "import jax, json, sys\n"
        "from petsam_jax import runtime; runtime.prepare(2)\n"
        "print(json.dumps(jax.device_count())); sys.exit(7)"
    )
    assert start(program, "-c", code, JAX_PLATFORMS="cpu") == ([], 2)


def cache_of(environment):
    """Where a new process keeps what it compiles."""
    code = "import jax; from petsam_jax import runtime; runtime.use_compilation_cache(); "
    code += "print(jax.config.jax_compilation_cache_dir)"
    kept = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    done = subprocess.run(
        [sys.executable, "-c", code], env=kept | environment, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.mark.slow
def test_compiled_programs_are_cached_where_possible(tmp_path):
    assert cache_of({"HOME": str(tmp_path)}) == str(tmp_path / ".cache" / "petsam_jax")
    (tmp_path / "a file").write_text("")
    # A home that cannot be written to; whoever runs the tests may write everywhere else.
    assert cache_of({"HOME": str(tmp_path / "a file")}) == "None"
    assert cache_of({"JAX_COMPILATION_CACHE_DIR": str(tmp_path)}) == str(tmp_path)


@LINUX
def test_freed_memory_is_returned_to_the_system():
    code = """
import sys
from petsam_jax import runtime

def resident():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
    return int(lines["VmRSS"].split()[0]) // 1024

runtime.prepare()
# Small blocks, and one that is kept above them.
blocks = [bytes(50_000) for _ in range(4_000)]
last = bytes(50_000)
del blocks
kept = resident()
runtime.release_memory()
print(kept - resident())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 150


def test_nothing_happens_without_malloc_trim(monkeypatch):
    for fault in (AttributeError, OSError, TypeError):

        def library(name, fault=fault):
            raise fault

        monkeypatch.setattr(runtime.ctypes, "CDLL", library)
        runtime.release_memory()


@pytest.mark.parametrize(("prepared", "compiled"), [(True, 2), (False, 1)])
def test_only_a_program_clears_its_jit_caches(prepared, compiled):
    code = f"""
import jax
from petsam_jax import runtime

traced = []
double = jax.jit(lambda x: traced.append(x) or 2 * x)
if {prepared}:
    runtime.prepare()
double(1.0)
runtime.clear_jit_caches()
assert double(3.0) == 6.0
print(len(traced))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == compiled


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_sets_a_flag_and_old_handlers_return(number):
    old = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with StopSignal() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested == signal.Signals(number).name
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == old


def test_a_second_signal_has_its_usual_effect():
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert stop.requested == "SIGTERM"


def test_old_handlers_return_after_an_error():
    old = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), StopSignal():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGTERM) == old


def test_other_threads_may_use_it():
    seen = []

    def run():
        with StopSignal() as stop:
            seen.append(stop.requested)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [""]
