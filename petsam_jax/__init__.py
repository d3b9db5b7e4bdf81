"""Promptable segmentation in JAX: SAM 2, trainable from scratch."""

__version__ = "0.1.0"
