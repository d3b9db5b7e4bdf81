"""Train a model from scratch, or go on with a run that was stopped.

    python train.py --config=configs/tiny.py
    python train.py --config=configs/pets256.py --workdir=runs/pets --config.train.batch_size=16

Started again with the same workdir, a run goes on from its last checkpoint. Ctrl-C or SIGTERM saves
first. On several hosts, start it on each, with a workdir that all of them see:

    python train.py --config=... --workdir=DIR \\
        --coordinator=HOST:PORT --num-processes=2 --process-id=0
"""

import argparse
import logging
import os
import sys
from pathlib import Path

from petsam_jax import runtime


def use_compilation_cache() -> None:
    """Programs are compiled once for each machine; a second start takes seconds."""
    import jax

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        jax.config.update("jax_compilation_cache_dir", str(caches / "petsam_jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def join_hosts(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Become one of several processes, if flags or JAX's own environment variables say so."""
    import jax

    if coordinator or "JAX_COORDINATOR_ADDRESS" in os.environ:
        jax.distributed.initialize(coordinator, num_processes, process_id)


def main() -> int:
    from petsam_jax.config import parse_args

    parser = argparse.ArgumentParser("python train.py", description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", type=Path, metavar="DIR", help="default: runs/NAME_OF_CONFIG")
    parser.add_argument("--summary", action="store_true", help="print what is trained how, and end")
    parser.add_argument("--max-steps", type=int, metavar="N", help="end at step N and save")
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="of several hosts: the first's")
    parser.add_argument("--num-processes", type=int, metavar="N", help="how many hosts there are")
    parser.add_argument("--process-id", type=int, metavar="I", help="which of them this is, from 0")
    args = parse_args(parser)
    if args.max_steps is not None and args.max_steps < 1:
        parser.error(f"--max-steps {args.max_steps}: set it to at least 1")
    name = Path(args.config_spec.replace(".py:", "-").removesuffix(".py")).name
    workdir = args.workdir or Path("runs") / name

    hosts = args.coordinator, args.num_processes, args.process_id
    if None in hosts and hosts != (None, None, None):
        parser.error("--coordinator, --num-processes and --process-id: give all three or none")
    join_hosts(*hosts)
    use_compilation_cache()
    # Orbax warns of every step that is saved without a validation.
    logging.getLogger("absl").setLevel(logging.ERROR)
    from petsam_jax.run_guard import TrainingDiverged, WorkdirError
    from petsam_jax.trainer import describe, train_and_evaluate

    try:
        if args.summary:
            print(describe(args.config))
        else:
            train_and_evaluate(args.config, workdir, max_steps=args.max_steps)
    # ValueError: what is wrong with the config, the data or the optimiser's patterns.
    except (ValueError, OSError, WorkdirError, TrainingDiverged) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    runtime.prepare()
    sys.exit(main())
