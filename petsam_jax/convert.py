"""Where `python -m petsam_jax.convert` of version 0.1.0 went: the command `petsam convert`."""

import sys

if __name__ == "__main__":
    sys.exit("python -m petsam_jax.convert is `petsam convert` now, with the same arguments")
