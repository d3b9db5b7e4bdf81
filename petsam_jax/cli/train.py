"""Train a model from scratch, or resume a run that was stopped.

    petsam train --config=tiny
    petsam train --config=my_configs/cats.py --workdir=runs/cats --config.train.batch_size=16

Started again with the same workdir, a run resumes from its last checkpoint. Ctrl-C and SIGTERM save
before they stop it. To train on several hosts, start it on each, with a workdir that all of them
share:

    petsam train --config=... --workdir=DIR \\
        --coordinator=HOST:PORT --num-processes=2 --process-id=0

These may also be set as JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID; under srun
or mpirun none are needed.

`python train.py` and `petsam train` are the same program.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from petsam_jax import runtime
from petsam_jax.cli.arguments import check_device

# Set by srun and mpirun to the number of processes they started; JAX finds out the rest.
LAUNCHERS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")


def join_hosts(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Join the other processes of a run, given by flags, JAX's variables or a launcher.

    Raises RuntimeError or ValueError if they are not found.
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
    parser.add_argument(
        "--summary", action="store_true", help="print how each part is trained, and exit"
    )
    parser.add_argument("--max-steps", type=int, metavar="N", help="save and stop at step N")
    distributed = (
        ("--coordinator", str, "HOST:PORT", "JAX_COORDINATOR_ADDRESS", "address of process 0"),
        ("--num-processes", int, "N", "JAX_NUM_PROCESSES", "number of processes"),
        ("--process-id", int, "I", "JAX_PROCESS_ID", "index of this process, from 0"),
    )
    for flag, kind, metavar, variable, text in distributed:
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
        # Before JAX is imported, so that missing data is reported at once.
        sources = None if args.summary else load_train_and_valid(args.config.data)
    except (ValueError, OSError) as error:
        return failed(error)
    try:
        join_hosts(*hosts)
    except (RuntimeError, ValueError) as error:
        return failed(f"the other processes were not found: {error}")
    try:
        check_device()
    except ValueError as error:
        return failed(error)
    runtime.use_compilation_cache()
    # Orbax warns about every step that is saved before its validation.
    logging.getLogger("absl").setLevel(logging.ERROR)
    from petsam_jax.train.guards import TrainingDiverged, WorkdirError
    from petsam_jax.train.loop import train_and_evaluate
    from petsam_jax.train.plan import summarize

    try:
        if args.summary:
            print(summarize(args.config))
        else:
            train_and_evaluate(args.config, workdir, max_steps=args.max_steps, sources=sources)
    # ValueError: an invalid config, data set or optimiser pattern.
    except (ValueError, OSError, WorkdirError, TrainingDiverged) as error:
        return failed(error)
    return 0


def failed(why: Exception | str) -> int:
    """Print why; return the exit code."""
    print(f"train: {why}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    runtime.prepare()
    sys.exit(main())
