"""SAM 2.1 in Flax NNX: one file a component, channels last, sizes as plain arguments.

Axis letters mean one thing everywhere: b batch, t frames, n tokens or points, l = h w, m masks,
k heads, h w height and width at the current stride, c channels.
"""
