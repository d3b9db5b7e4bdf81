"""Serve the page where a click cuts the pet out.

    python demo.py

It is the command `petsam demo`; see `petsam_jax/demo.py`.
"""

import sys

from petsam_jax.demo import main

if __name__ == "__main__":
    sys.exit(main())
