"""Evaluation: floors, the figures that are made of scores, the plot and the sheets."""

import numpy as np
import pytest
from test_evaluation import Discs, example, square

from petsam_jax.evaluation import baselines, robustness
from petsam_jax.evaluation.plot import plot_clicks
from petsam_jax.evaluation.protocol import judge, score
from petsam_jax.evaluation.sheets import draw_sheet, ranked
from petsam_jax.evaluation.summary import intervals, resample, summarise, table_of


class Examples:
    """A source of ready examples."""

    def __init__(self, examples):
        self._examples = examples
        self.names = [one.name for one in examples]
        self.groups = [one.group for one in examples]

    def __len__(self):
        return len(self._examples)

    def __getitem__(self, index):
        return self._examples[index]


# Floors


def test_floors_of_a_square_are_known():
    mean = np.zeros((64, 64), np.float32)
    mean[:, 32:] = 1
    scores = baselines.score_baselines(example(square()), mean)
    ignored = 36 * 46 - 30 * 40
    assert scores["iou/floor_everything"] == pytest.approx(1200 / (4800 - ignored))
    assert scores["border_as_pet/floor_everything"] == pytest.approx(36 * 46 / 4800)
    assert scores["iou/floor_box"] == 1
    assert scores["iou/floor_ellipse"] == pytest.approx(np.pi / 4, abs=0.02)
    right = 40 * 60 - 23 * 36 + 20 * 30
    assert scores["iou/floor_mean_mask"] == pytest.approx(600 / (right + 600), abs=0.02)
    assert "iou/floor_mean_mask" not in baselines.score_baselines(example(square()), None)


def test_the_mean_mask_leaves_ignored_pixels_out():
    one, other = np.zeros((128, 128), np.uint8), np.zeros((128, 128), np.uint8)
    one[:64] = 1
    other[:, :64] = 2
    mean = baselines.mean_mask(Examples([example(one), example(other)]))
    assert mean.shape == (64, 64)
    corners = [mean[0, 0], mean[0, -1], mean[-1, 0], mean[-1, -1]]
    assert corners == [1, 0.5, 0, 0]


def test_grabcut_finds_what_has_a_colour_of_its_own(rng):
    pytest.importorskip("cv2", reason="GrabCut needs opencv-python-headless")
    mask = square(300, 400)
    image = rng.integers(0, 60, (300, 400, 3), np.uint8)
    image[mask == 1] += 150
    box = np.array([10, 5, 70, 60], np.float32)
    found = baselines.grabcut(image, box)
    assert score(found, mask, "x")["iou/x"] > 0.9
    assert (baselines.grabcut(image, box) == found).all()
    everything = np.array([0, 0, 399, 299], np.float32)
    assert baselines.grabcut(image, everything).all()


# Figures


def scored(names, groups, seed=0, **fixed):
    """A table of pictures asked about by `Discs`, with some scores replaced."""
    rows = []
    for number, name in enumerate(names):
        one = example(square(60 + number, 80), name, seed=number)
        row = judge(Discs(), one) | robustness.judge_robustness(Discs(), one)
        rows.append(row | baselines.score_baselines(one, None))
        rows[-1] |= {key: value[number] for key, value in fixed.items()}
    return table_of(names, groups, np.linspace(0.05, 0.5, len(names)).round(6).tolist(), rows)


@pytest.fixture(scope="module")
def table():
    names = ["Bengal_1", "Bengal_2", "pug_1#1", "pug_1#2"]
    fixed = {f"iou/click{k}": [0.5, 0.95, 0.86, 0.2] for k in range(1, 20)}
    # The last click just makes it: 20 clicks, but no failure.
    fixed["iou/click20"] = [0.5, 0.95, 0.86, 0.91]
    return scored(names, ["Bengal", "Bengal", "pug", "pug"], **fixed)


@pytest.fixture(scope="module")
def figures(table):
    return summarise(table)


def test_figures_are_means_over_pets(table, figures):
    assert figures["n"] == 4 and figures["pictures"] == 3
    assert "left out" in figures["convention"]
    assert figures["click_iou"][0] == pytest.approx((0.5 + 0.95 + 0.86 + 0.2) / 4)
    assert len(figures["click_iou"]) == len(figures["iou_border_as_pet"]["click"]) == 20
    # 20 for those that never get there.
    assert figures["noc90"] == (20 + 1 + 20 + 20) / 4 and figures["noc85"] == (20 + 1 + 1 + 20) / 4
    assert figures["failures90"] == 2
    assert figures["box_iou"] == 1 == figures["boundary_f"]["box"]
    assert figures["floors"]["box"]["iou"] == 1


def test_the_breakdown_adds_up(figures):
    parts = figures["breakdown"]
    assert list(parts["breed"]) == ["Bengal", "pug"] and list(parts["species"]) == ["cat", "dog"]
    # Shares of 0.05, 0.2, 0.35 and 0.5 of the picture.
    sizes = {"under_20_percent": 1, "20_to_30_percent": 1, "over_30_percent": 2}
    assert {key: part["n"] for key, part in parts["object_size"].items()} == sizes
    for part in parts.values():
        whole = sum(of["n"] * of["click1_iou"] for of in part.values()) / 4
        assert whole == pytest.approx(figures["click_iou"][0], abs=1e-5)


def test_species_are_told_of_official_breeds_only():
    own = summarise(scored(["a", "b"], ["cats", "dogs"]))
    assert own["breakdown"]["species"] == {} and list(own["breakdown"]["breed"]) == ["cats", "dogs"]


def test_intervals_hold_the_mean_and_are_seeded(figures, table):
    assert summarise(table) == figures
    for (low, high), mean in zip(
        figures["intervals95"]["click_iou"], figures["click_iou"], strict=True
    ):
        assert low < mean < high
    assert figures["intervals95"]["box_iou"] == [1, 1]


def test_an_interval_is_two_standard_errors_to_either_side(rng):
    values = rng.normal(size=400)
    low, high = intervals(values, resample([str(i) for i in range(400)]))
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_pets_of_one_picture_are_drawn_together():
    weights = resample(["a", "b", "b", "c"])
    assert (weights[:, 1] == weights[:, 2]).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    assert np.ptp(weights[:, 0]) > 0


def test_scores_that_some_pictures_lack_are_left_out_of_the_mean():
    names = ["a", "b"]
    rows = [dict(judge(Discs(), example(square(), name))) for name in names]
    whole = robustness.judge_robustness(Discs(), example(square()))
    rows = [rows[0] | whole, rows[1] | {"double_size/box": 0.5}]
    variants = summarise(table_of(names, names, [0.1, 0.2], rows))["robustness"]
    assert variants["double_size"]["box_iou"] == 0.75
    assert variants["jpeg_20"]["box_iou"] == whole["jpeg_20/box"]
    bare = summarise(table_of(["a"], ["a"], [0.1], [judge(Discs(), example(square()))]))
    assert bare["robustness"]["double_size"]["box_iou"] is None


# Pictures


def test_the_plot_shows_the_curve_and_its_levels(figures):
    drawn = np.asarray(plot_clicks(figures)).astype(int)
    assert drawn.shape == (560, 900, 3)
    blue = (drawn[..., 2] - drawn[..., 0] > 100).nonzero()[1]
    assert blue.min() < 100 and 660 < blue.max() < 700
    perfect = figures | {"click_iou": [1.0] * 20}
    assert (np.asarray(plot_clicks(perfect)) != drawn).any()


def test_a_sheet_has_a_row_for_each_picture_from_the_worst(table):
    order = ranked(table)
    assert sorted(order) == [0, 1, 2, 3] and order[0] in (0, 3)
    pictures = [example(square(60 + n, 80), table.names[n], seed=n) for n in range(4)]
    sheet = draw_sheet(Discs(), Examples(pictures), order[:3])
    assert sheet.size == (6 * 200, 3 * 218)
    cells = np.asarray(sheet)[18:100, :1200].reshape(82, 6, 200, 3)
    assert (cells.reshape(-1, 6, 600).std(axis=(0, 2)) > 0).all()
