"""Where `python -m petsam_jax.export` of version 0.1.0 went: the command `petsam export`."""

import sys

if __name__ == "__main__":
    sys.exit("python -m petsam_jax.export is `petsam export` now, with the same arguments")
