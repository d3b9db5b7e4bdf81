"""Figures of a model on held-out pictures at their own resolution, and what they are worth.

    simulated_user.py   where a user clicks next and which box one draws
    protocol.py         one picture: nothing, boxes and clicks, each answer scored
    robustness.py       the same with careless prompts and altered pictures
    floors.py           answers that know no model
    summary.py          the pictures' scores as the figures of metrics.json
    plot.py, sheets.py  IoU against clicks; the best and the worst pictures
    report.py           all pictures judged, and the files of the report

`petsam_jax/cli/evaluate.py` is the command. Validation within training
(`petsam_jax/train/validation.py`) is the quick form of this at the model's resolution.
"""
