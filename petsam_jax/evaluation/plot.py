"""A plot of IoU against clicks: the mean with its 95 % interval, other prompts and baselines.

In: the figures of metrics.json. Out: a matplotlib figure. Needs matplotlib, from the extra `eval`.
"""

import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE, DPI = (9.0, 5.6), 100
PROMPTS = {"no_prompt_iou": "no prompt", "box_iou": "box", "box_jitter_iou": "box, 5 % off"}


def has_matplotlib() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def plot_clicks(figures: Mapping) -> "Figure":
    """The plot of `summary.summarise`'s figures."""
    # The class itself rather than pyplot, which would look for a display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    axes = figure.add_subplot(
        title=f"IoU against clicks, {figures['n']} pets, border left out",
        xlabel="clicks",
        ylabel="IoU",
    )
    clicks = np.arange(1, len(figures["click_iou"]) + 1)
    low, high = np.array(figures["intervals95"]["click_iou"]).T
    axes.fill_between(clicks, low, high, alpha=0.2, linewidth=0)
    axes.plot(clicks, figures["click_iou"], marker="o", markersize=4, label="clicks")
    for number, (iou, name, style) in enumerate(_levels(figures), 1):
        axes.axhline(iou, color=f"C{number}", linestyle=style, label=f"{name}: {iou:.3f}")
    axes.set_xticks(clicks)
    axes.set_ylim(top=1.01)
    axes.grid(axis="y", color="0.9")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    return figure


def _levels(figures: Mapping) -> list[tuple[float, str, str]]:
    """What is drawn as a horizontal line: IoU, label and line style, the highest first."""
    prompts = [(figures[key], name, "--") for key, name in PROMPTS.items()]
    baselines = [
        (baseline["iou"], f"baseline {name.replace('_', ' ')}", ":")
        for name, baseline in figures["baselines"].items()
    ]
    return sorted(prompts + baselines, reverse=True)
