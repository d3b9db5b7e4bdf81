"""Where `python -m petsam_jax.data.show` of version 0.1.0 went: the command `petsam preview`."""

import sys

if __name__ == "__main__":
    sys.exit("python -m petsam_jax.data.show is `petsam preview` now, with the same flags")
