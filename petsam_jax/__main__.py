"""`python -m petsam_jax` is the command `petsam`."""

import sys

from petsam_jax.cli.main import main

sys.exit(main())
