"""The scores of all examples, summed up as the figures of metrics.json.

In: a table with a row for each example and a column for each named score of the protocol. Out:
plain numbers that JSON can hold, rounded to `DIGITS`, so that two runs write the same file. Means
are over examples: each of several pets in an image counts. Intervals are by bootstrap: 95 % of the
means of samples drawn with replacement lie in them; pets of one image are drawn together.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from petsam_jax.data.pets import species
from petsam_jax.data.sources import image_name
from petsam_jax.evaluation import robustness
from petsam_jax.evaluation.baselines import PREFIX
from petsam_jax.evaluation.protocol import CLICKS, CONTOUR_CLICKS
from petsam_jax.metrics import noc

CONVENTION = (
    "IoU at the image's own resolution, mean over pets; border pixels (3 in a trimap) are left out "
    "of clicks and IoU, and count as pet in iou_border_as_pet; next click in the centre of the "
    "larger error (RITM), the image's border counting as an edge, never a pixel twice; boxes are "
    "tight around the pet's own pixels"
)
DIGITS = 6
RESAMPLES, BOOTSTRAP_SEED = 2000, 0
PROMPTS = ("no_prompt", "box", "box_jitter")
CLICK_NAMES = tuple(f"click{number}" for number in range(1, CLICKS + 1))
CONTOURS = (*PROMPTS, *(f"click{number}" for number in CONTOUR_CLICKS))
# Object sizes by the pet's share of the image's pixels; roughly thirds of Oxford-IIIT Pet.
SIZES = {"under_20_percent": 0.2, "20_to_30_percent": 0.3, "over_30_percent": 1.01}
# Groups of known species; any others are folders of a user's own.
BREEDS = (
    "Abyssinian american_bulldog american_pit_bull_terrier basset_hound beagle Bengal Birman "
    "Bombay boxer British_Shorthair chihuahua Egyptian_Mau english_cocker_spaniel english_setter "
    "german_shorthaired great_pyrenees havanese japanese_chin keeshond leonberger Maine_Coon "
    "miniature_pinscher newfoundland Persian pomeranian pug Ragdoll Russian_Blue saint_bernard "
    "samoyed scottish_terrier shiba_inu Siamese Sphynx staffordshire_bull_terrier wheaten_terrier "
    "yorkshire_terrier"
)


@dataclasses.dataclass(frozen=True)
class Table:
    """Names and groups (breeds) of n pets, their shares of the image, and their scores."""

    names: Sequence[str]
    groups: Sequence[str]
    shares: Sequence[float]
    columns: Mapping[str, Float[np.ndarray, " n"]]  # NaN where a score is missing

    def block(self, measure: str, names: Sequence[str]) -> Float[np.ndarray, "n k"]:
        """The scores of several prompts by one measure."""
        return np.stack([self.columns[f"{measure}/{name}"] for name in names], axis=1)


def make_table(
    names: Sequence[str],
    groups: Sequence[str],
    shares: Sequence[float],
    scores: Sequence[Mapping[str, float]],
) -> Table:
    """A table from the scores of each pet; a score that a pet lacks is NaN."""
    columns = dict.fromkeys(name for row in scores for name in row)
    values = {name: np.array([row.get(name, np.nan) for row in scores]) for name in columns}
    return Table(names, groups, shares, values)


def summarise(table: Table) -> dict:
    """All figures of metrics.json but those on their origin: the checkpoint and the data."""
    headline = _headline(table)
    means = {name: values.mean(axis=0).tolist() for name, values in headline.items()}
    clicks = table.block("iou", CLICK_NAMES)
    return _rounded(
        {
            "n": len(table.names),
            "images": len({image_name(name) for name in table.names}),
            "convention": CONVENTION,
            **means,
            "failures90": int(noc(clicks, 0.9, CLICKS).failed.sum()),
            "boundary_f": {name: _mean(table, f"boundary_f/{name}") for name in CONTOURS},
            "iou_border_as_pet": _by_prompt(table, "border_as_pet"),
            "intervals95": _intervals(table, headline),
            "baselines": _baselines(table),
            "breakdown": _breakdown(table),
            "robustness": _robustness(table),
        }
    )


def _headline(table: Table) -> dict[str, Float[np.ndarray, "n *k"]]:
    """The figures that have intervals, one row for each pet."""
    clicks = table.block("iou", CLICK_NAMES)
    return {
        **{f"{name}_iou": table.columns[f"iou/{name}"] for name in PROMPTS},
        "click_iou": clicks,
        "noc85": noc(clicks, 0.85, CLICKS).clicks.astype(float),
        "noc90": noc(clicks, 0.9, CLICKS).clicks.astype(float),
    }


def _by_prompt(table: Table, measure: str) -> dict:
    return {
        **{name: _mean(table, f"{measure}/{name}") for name in PROMPTS},
        "click": table.block(measure, CLICK_NAMES).mean(axis=0).tolist(),
    }


def _mean(table: Table, column: str) -> float | None:
    """The mean over the pets that have this score; None, which JSON writes as null, if none has."""
    values = table.columns[column]
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None


def _intervals(table: Table, headline) -> dict:
    contour = {f"boundary_f/{name}": table.columns[f"boundary_f/{name}"] for name in PROMPTS}
    weights = resample([image_name(name) for name in table.names])
    return {
        name: intervals(values, weights).tolist() for name, values in (headline | contour).items()
    }


def resample(images: Sequence[str]) -> Float[np.ndarray, "r n"]:
    """Each pet's weight in each of `RESAMPLES` samples of images; rows sum to 1.

    `images` names the image of each pet.
    """
    unique, index = np.unique(np.array(images), return_inverse=True)
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    number = len(unique)
    drawn = rng.multinomial(number, np.full(number, 1 / number), RESAMPLES)
    weights = drawn[:, index].astype(float)
    return weights / weights.sum(axis=1, keepdims=True)


def intervals(
    values: Float[np.ndarray, "n *k"], weights: Float[np.ndarray, "r n"]
) -> Float[np.ndarray, "*k 2"]:
    """Lower and upper end of the 95 % interval of each column's mean."""
    return np.moveaxis(np.percentile(weights @ values, (2.5, 97.5), axis=0), 0, -1)


def _baselines(table: Table) -> dict:
    columns = [name for name in table.columns if name.startswith(f"iou/{PREFIX}")]
    return {
        name.removeprefix(f"iou/{PREFIX}"): {
            "iou": _mean(table, name),
            "iou_border_as_pet": _mean(table, name.replace("iou", "border_as_pet", 1)),
        }
        for name in columns
    }


def _breakdown(table: Table) -> dict:
    """By breed (or whatever the groups are), by species where it is known, and by size."""
    headline = _headline(table)
    official = set(BREEDS.split())
    kinds = [species(group) if group in official else "" for group in table.groups]
    sizes = [next(name for name, end in SIZES.items() if share < end) for share in table.shares]

    def parts(of_each, order):
        of_each = np.array(of_each)
        return {key: _part(headline, of_each == key) for key in order if (of_each == key).any()}

    return {
        "breed": parts(table.groups, sorted(set(table.groups))),
        "species": parts(kinds, ("cat", "dog")),
        "object_size": parts(sizes, SIZES),
    }


def _part(headline, chosen) -> dict:
    """The headline figures of some of the pets; of the clicks, after 1, 3 and 5."""
    part = {name: values[chosen] for name, values in headline.items()}
    clicks = part.pop("click_iou")
    means = {name: float(values.mean()) for name, values in part.items()}
    after = {f"click{k}_iou": float(clicks[:, k - 1].mean()) for k in CONTOUR_CLICKS}
    return {"n": int(chosen.sum()), **means, **after}


def _robustness(table: Table) -> dict:
    """Each variant's IoUs, after those of the unaltered protocol to compare them with."""
    prompts = ("no_prompt", "box", *robustness.PROMPTS)
    result = {"unaltered": {f"{name}_iou": _mean(table, f"iou/{name}") for name in prompts}}
    for variant, names in robustness.VARIANTS.items():
        columns = {name: f"{variant}/{name}" for name in names}
        result[variant] = {
            f"{name}_iou": _mean(table, column) if column in table.columns else None
            for name, column in columns.items()
        }
    return result


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, DIGITS) if isinstance(value, float) else value
