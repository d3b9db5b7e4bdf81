"""Serve the page where a click cuts the pet out.

    python demo.py

It is the command `petsam demo`; see `petsam_jax/cli/demo.py`.
"""

import sys

from petsam_jax.cli.demo import main

if __name__ == "__main__":
    sys.exit(main())
