"""benchmarks/curve.py: hours without the breaks, runs one after another, clear errors."""

import json

import pytest

from benchmarks import curve

IOUS = {f"valid/{kind}": 0.5 for kind in curve.KINDS}


def write(run, lines):
    run.mkdir()
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def test_breaks_do_not_count_and_runs_follow_one_another(tmp_path):
    hour = [{"step": n, "time": 60.0 * n, "loss": 1.0} for n in range(60)]
    later = [{"step": n, "time": 60.0 * n + 9e6, "loss": 1.0} for n in range(60, 119)]
    first = write(tmp_path / "first", [*hour, *later, {"step": 119, "time": 119 * 60 + 9e6} | IOUS])
    second = write(tmp_path / "second", [*hour[:30], {"step": 30, "time": 1800.0} | IOUS])
    found = curve.points([first, second])
    assert [(p.run, p.step) for p in found] == [("first", 119), ("second", 30)]
    assert found[0].hours == pytest.approx(2, abs=0.02)
    assert found[1].hours == pytest.approx(2.52, abs=0.03)
    rows = curve.table(found).splitlines()
    assert rows[0].count("|") == rows[1].count("|") == rows[2].count("|")
    assert "| first | 119 | 2.00 | 0.500" in rows[2]
    assert "line [0.500, 0.500]" in curve.chart(found)


def test_a_run_without_a_log_or_a_validation_is_named(tmp_path, capsys):
    empty = write(tmp_path / "young", [{"step": 1, "time": 1.0}])
    for run, message in ((empty, "no validation"), (tmp_path / "none", "workdirs of train.py")):
        assert curve.main([str(run)]) == 1
        error = capsys.readouterr().err
        assert str(run) in error and message in error
