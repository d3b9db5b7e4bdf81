"""Images with masks: made ready (`prepare`), read (`sources` and its kinds), fed to training.

Whatever the origin, an example is an image, a mask of 0 background / 1 pet / 2 ignore, a name and
a group such as the breed (`sources.Example`).
"""
