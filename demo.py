"""Serve the page on which one click cuts out a pet: the same as `petsam demo`.

See `petsam_jax/cli/demo.py`.
"""

import sys

from petsam_jax.cli.demo import main

if __name__ == "__main__":
    sys.exit(main())
