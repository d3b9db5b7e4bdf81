"""The command `petsam`: one file for each of its commands."""
