"""Images with masks: prepared (`prepare`), opened (`load`), varied and batched (`pipeline`).

Whatever its origin, an example is an image, a mask (values of `mask_values`), a name and a group
such as the breed (`sources.Example`).
"""
