"""How good a model is on held-out images and clips, at their own resolution.

    simulated_user.py   where a user would click next, and which box they would draw
    protocol.py         one example: without a prompt, with boxes and with clicks, all scored
    robustness.py       the same with imprecise prompts and degraded images
    baselines.py        results without a model
    summary.py          the scores of all examples as the figures of metrics.json
    plot.py, sheets.py  IoU against clicks; the best and the worst examples
    report.py           a whole source scored, and the files of the report
    video.py            the same for clips with known masks

`cli/evaluate.py` and `cli/evaluate_video.py` are the commands. Validation during training
(`train/validation.py`) is the quick form of this at the model's resolution.
"""
