"""The table of breeds: every breed once, the worst first, all last; other files are refused."""

import json

from benchmarks import breeds

NAMES = ("no_prompt_iou", "box_iou", "box_jitter_iou")


def scores(n, iou):
    clicks = {f"click{number}_iou": iou + number / 100 for number in (1, 3, 5)}
    return {"n": n, **dict.fromkeys(NAMES, iou), "noc85": 2.0, **clicks}


REPORT = {
    "n": 5,
    **dict.fromkeys(NAMES, 0.8),
    "click_iou": [0.1, 0.2, 0.3, 0.4, 0.5],
    "breakdown": {"breed": {"Abyssinian": scores(3, 0.9), "great_pyrenees": scores(2, 0.65)}},
}


def test_each_breed_has_a_row_and_the_worst_is_first(tmp_path, capsys):
    (tmp_path / "metrics.json").write_text(json.dumps(REPORT))
    assert breeds.main([str(tmp_path)]) == 0
    _, rule, *rows = capsys.readouterr().out.splitlines()
    assert rule.count("|") == rows[0].count("|") == 9
    assert rows[0] == "| great pyrenees | 2 | 0.650 | 0.650 | 0.650 | 0.660 | 0.680 | 0.700 |"
    assert rows[1].startswith("| Abyssinian | 3 | 0.900 ")
    assert rows[2] == "| all | 5 | 0.800 | 0.800 | 0.800 | 0.100 | 0.300 | 0.500 |"
    assert len(rows) == 3


def test_other_files_are_refused_by_name(tmp_path, capsys):
    assert breeds.main([str(tmp_path)]) == 1
    assert f"{tmp_path / 'metrics.json'}" in capsys.readouterr().err
    (tmp_path / "metrics.json").write_text("{}")
    assert breeds.main([str(tmp_path)]) == 1
    assert "petsam evaluate" in capsys.readouterr().err
