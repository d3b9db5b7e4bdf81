"""Train a model from scratch, or resume a run that was stopped.

    python train.py --config=configs/tiny.py

The same as the command `petsam train`; see `petsam_jax/cli/train.py`.
"""

import sys

from petsam_jax import runtime

if __name__ == "__main__":
    runtime.prepare()
    from petsam_jax.cli.train import main

    sys.exit(main())
