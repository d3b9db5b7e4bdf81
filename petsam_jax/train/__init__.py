"""Training from random weights: the loop, its step, the losses, and what a run writes."""
