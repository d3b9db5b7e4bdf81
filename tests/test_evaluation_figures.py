"""Evaluation: baselines, the figures made from scores, the plot and the sheets."""

import numpy as np
import pytest
from test_evaluation import Discs, example, square

from petsam_jax.evaluation import baselines, report, robustness
from petsam_jax.evaluation.plot import plot_clicks
from petsam_jax.evaluation.protocol import TimedPredictor, score_example, score_mask
from petsam_jax.evaluation.sheets import draw_sheet, ranked
from petsam_jax.evaluation.summary import intervals, make_table, resample, summarise


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


# Baselines


def test_baselines_of_a_square_are_known():
    mean = np.zeros((64, 64), np.float32)
    mean[:, 32:] = 1
    scores = baselines.score_baselines(example(square()), mean)
    ignored = 36 * 46 - 30 * 40
    assert scores["iou/baseline_everything"] == pytest.approx(1200 / (4800 - ignored))
    assert scores["border_as_pet/baseline_everything"] == pytest.approx(36 * 46 / 4800)
    assert scores["iou/baseline_box"] == 1
    assert scores["iou/baseline_ellipse"] == pytest.approx(np.pi / 4, abs=0.02)
    right = 40 * 60 - 23 * 36 + 20 * 30
    assert scores["iou/baseline_mean_mask"] == pytest.approx(600 / (right + 600), abs=0.02)
    assert "iou/baseline_mean_mask" not in baselines.score_baselines(example(square()), None)


def test_the_mean_mask_leaves_ignored_pixels_out():
    one, other = np.zeros((128, 128), np.uint8), np.zeros((128, 128), np.uint8)
    one[:64] = 1
    other[:, :64] = 2
    mean = baselines.mean_mask(Examples([example(one), example(other)]))
    assert mean.shape == (64, 64)
    corners = [mean[0, 0], mean[0, -1], mean[-1, 0], mean[-1, -1]]
    assert corners == [1, 0.5, 0, 0]


def test_grabcut_finds_a_pet_of_distinct_colour(rng):
    pytest.importorskip("cv2", reason="GrabCut needs opencv-python-headless")
    mask = square(300, 400)
    image = rng.integers(0, 60, (300, 400, 3), np.uint8)
    image[mask == 1] += 150
    box = np.array([10, 5, 70, 60], np.float32)
    pred_mask = baselines.grabcut(image, box)
    assert score_mask(pred_mask, mask, "x")["iou/x"] > 0.9
    assert (baselines.grabcut(image, box) == pred_mask).all()
    everything = np.array([0, 0, 399, 299], np.float32)
    assert baselines.grabcut(image, everything).all()


# Figures


def scored(names, groups, seed=0, **fixed):
    """A table of examples scored with `Discs`, some scores replaced."""
    rows = []
    for number, name in enumerate(names):
        one = example(square(60 + number, 80), name, seed=number)
        row = score_example(Discs(), one) | robustness.score_robustness(Discs(), one)
        rows.append(row | baselines.score_baselines(one, None))
        rows[-1] |= {key: value[number] for key, value in fixed.items()}
    return make_table(names, groups, np.linspace(0.05, 0.5, len(names)).round(6).tolist(), rows)


@pytest.fixture(scope="module")
def table():
    names = ["Bengal_1", "Bengal_2", "pug_1#1", "pug_1#2"]
    fixed = {f"iou/click{k}": [0.5, 0.95, 0.86, 0.2] for k in range(1, 20)}
    # Only the last click reaches 0.9: 20 clicks, but no failure.
    fixed["iou/click20"] = [0.5, 0.95, 0.86, 0.91]
    return scored(names, ["Bengal", "Bengal", "pug", "pug"], **fixed)


@pytest.fixture(scope="module")
def figures(table):
    return summarise(table)


def test_figures_are_means_over_pets(table, figures):
    assert figures["n"] == 4 and figures["images"] == 3
    assert "left out" in figures["convention"]
    assert figures["click_iou"][0] == pytest.approx((0.5 + 0.95 + 0.86 + 0.2) / 4)
    assert len(figures["click_iou"]) == len(figures["iou_border_as_pet"]["click"]) == 20
    # 20 for those that never get there.
    assert figures["noc90"] == (20 + 1 + 20 + 20) / 4 and figures["noc85"] == (20 + 1 + 1 + 20) / 4
    assert figures["failures90"] == 2
    assert figures["box_iou"] == 1 == figures["boundary_f"]["box"]
    assert figures["baselines"]["box"]["iou"] == 1


def test_the_breakdown_adds_up(figures):
    parts = figures["breakdown"]
    assert list(parts["breed"]) == ["Bengal", "pug"] and list(parts["species"]) == ["cat", "dog"]
    # Shares of 0.05, 0.2, 0.35 and 0.5 of the image.
    sizes = {"under_20_percent": 1, "20_to_30_percent": 1, "over_30_percent": 2}
    assert {key: part["n"] for key, part in parts["object_size"].items()} == sizes
    for part in parts.values():
        whole = sum(of["n"] * of["click1_iou"] for of in part.values()) / 4
        assert whole == pytest.approx(figures["click_iou"][0], abs=1e-5)


def test_only_official_breeds_have_a_species():
    own = summarise(scored(["a", "b"], ["cats", "dogs"]))
    assert own["breakdown"]["species"] == {} and list(own["breakdown"]["breed"]) == ["cats", "dogs"]


def test_intervals_contain_the_mean_and_are_seeded(figures, table):
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


def test_pets_of_one_image_are_drawn_together():
    weights = resample(["a", "b", "b", "c"])
    assert (weights[:, 1] == weights[:, 2]).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    assert np.ptp(weights[:, 0]) > 0


def test_missing_scores_are_left_out_of_the_mean():
    names = ["a", "b"]
    rows = [dict(score_example(Discs(), example(square(), name))) for name in names]
    whole = robustness.score_robustness(Discs(), example(square()))
    rows = [rows[0] | whole, rows[1] | {"double_size/box": 0.5}]
    variants = summarise(make_table(names, names, [0.1, 0.2], rows))["robustness"]
    assert variants["double_size"]["box_iou"] == 0.75
    assert variants["jpeg_20"]["box_iou"] == whole["jpeg_20/box"]
    bare = summarise(make_table(["a"], ["a"], [0.1], [score_example(Discs(), example(square()))]))
    assert bare["robustness"]["double_size"]["box_iou"] is None


# Plot and sheets


def test_the_plot_shows_the_curve_and_its_levels(figures):
    (axes,) = plot_clicks(figures).axes
    curve, *levels = axes.lines
    np.testing.assert_allclose(curve.get_ydata(), figures["click_iou"])
    assert curve.get_xdata().tolist() == list(range(1, 21))
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert "box: 1.000" in labels and len(labels) == 1 + len(levels)
    assert {f"baseline {name}" for name in figures["baselines"]} <= {
        label.partition(":")[0] for label in labels
    }
    low, high = axes.get_ylim()
    assert low < min(line.get_ydata()[0] for line in levels) and high >= 1


def test_a_report_without_matplotlib_has_no_plot_and_says_so(table, figures, tmp_path, monkeypatch):
    examples = Examples([example(square(60 + n, 80), table.names[n], seed=n) for n in range(4)])
    predictor = TimedPredictor(Discs())
    score_example(predictor, examples[0])
    log = []
    monkeypatch.setattr(report, "has_matplotlib", lambda: False)
    report.write_report(tmp_path, figures, table, predictor, examples, log.append)
    assert len(log) == 1 and "pip install matplotlib" in log[0]
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["best.jpg", "examples.csv", "metrics.json", "timings.json", "worst.jpg"]


def test_a_sheet_has_a_row_for_each_example_from_the_worst(table):
    order = ranked(table)
    assert sorted(order) == [0, 1, 2, 3] and order[0] in (0, 3)
    examples = [example(square(60 + n, 80), table.names[n], seed=n) for n in range(4)]
    sheet = draw_sheet(Discs(), Examples(examples), order[:3])
    assert sheet.size == (6 * 200, 3 * 218)
    cells = np.asarray(sheet)[18:100, :1200].reshape(82, 6, 200, 3)
    assert (cells.reshape(-1, 6, 600).std(axis=(0, 2)) > 0).all()
