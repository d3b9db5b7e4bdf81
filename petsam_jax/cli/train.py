"""Train a model from scratch, or go on with a run that was stopped.

    petsam train --config=tiny
    petsam train --config=my_configs/cats.py --workdir=runs/cats --config.train.batch_size=16

Started again with the same workdir, a run goes on from its last checkpoint. Ctrl-C or SIGTERM saves
first. On several hosts, start it on each, with a workdir that all of them see:

    petsam train --config=... --workdir=DIR \\
        --coordinator=HOST:PORT --num-processes=2 --process-id=0

or with these in JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. Where srun or
mpirun has started it, nothing needs to be said.

`python train.py` and `petsam train` are the same program.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from petsam_jax import runtime

# Where srun and mpirun say how many processes they have started; JAX finds out the rest.
LAUNCHERS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")


def join_hosts(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Become one of several processes, if flags, JAX's variables or a launcher's say so.

    Raises RuntimeError or ValueError when the others are not found.
    """
    launched = any(int(os.environ.get(name) or 1) > 1 for name in LAUNCHERS)
    if coordinator or launched:
        import jax

        given = (coordinator, num_processes, process_id) if coordinator else ()
        jax.distributed.initialize(*given)


def main(argv: Sequence[str] | None = None) -> int:
    from petsam_jax.config import parse_args, split_spec
    from petsam_jax.data.load import load_train_and_valid

    parser = argparse.ArgumentParser(
        "petsam train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, metavar="DIR", help="default: runs/NAME_OF_CONFIG")
    parser.add_argument("--summary", action="store_true", help="print what is trained how, and end")
    parser.add_argument("--max-steps", type=int, metavar="N", help="end at step N and save")
    several = (
        ("--coordinator", str, "HOST:PORT", "JAX_COORDINATOR_ADDRESS", "of several: the first's"),
        ("--num-processes", int, "N", "JAX_NUM_PROCESSES", "how many processes there are"),
        ("--process-id", int, "I", "JAX_PROCESS_ID", "which of them this is, from 0"),
    )
    for flag, kind, metavar, variable, text in several:
        default = os.environ.get(variable) or None
        parser.add_argument(flag, type=kind, metavar=metavar, default=default, help=text)
    args = parse_args(parser, argv)
    if args.max_steps is not None and args.max_steps < 1:
        parser.error(f"--max-steps {args.max_steps}: set it to at least 1")
    path, variant = split_spec(args.config_spec)
    workdir = args.workdir or Path("runs") / "-".join(filter(None, [path.stem, variant]))

    hosts = args.coordinator, args.num_processes, args.process_id
    if None in hosts and hosts != (None, None, None):
        parser.error(
            "--coordinator, --num-processes and --process-id (or JAX_COORDINATOR_ADDRESS, "
            "JAX_NUM_PROCESSES and JAX_PROCESS_ID): give all three or none"
        )
    try:
        # Before JAX is imported: that something is missing is then said at once.
        sources = None if args.summary else load_train_and_valid(args.config.data)
    except (ValueError, OSError) as error:
        return failed(error)
    try:
        join_hosts(*hosts)
    except (RuntimeError, ValueError) as error:
        return failed(f"the other processes were not found: {error}")
    runtime.use_compilation_cache()
    # Orbax warns of every step that is saved without a validation.
    logging.getLogger("absl").setLevel(logging.ERROR)
    from petsam_jax.train.guards import TrainingDiverged, WorkdirError
    from petsam_jax.train.loop import train_and_evaluate
    from petsam_jax.train.plan import summarize

    try:
        if args.summary:
            print(summarize(args.config))
        else:
            train_and_evaluate(args.config, workdir, max_steps=args.max_steps, sources=sources)
    # ValueError: what is wrong with the config, the data or the optimiser's patterns.
    except (ValueError, OSError, WorkdirError, TrainingDiverged) as error:
        return failed(error)
    return 0


def failed(why: Exception | str) -> int:
    """Say why; the exit code."""
    print(f"train: {why}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    runtime.prepare()
    sys.exit(main())
