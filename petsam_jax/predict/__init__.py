"""Masks from a trained model: of images, and of objects through clips."""
