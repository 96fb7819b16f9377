import json
from pathlib import Path

import pytest

from distillation.evaluation.report import plots


def test_each_loss_of_a_curve_keeps_its_own_steps(tmp_path: Path):
    curve = tmp_path / "teacher.jsonl"
    rows = [
        {"step": 10, "seconds": 1, "loss": 2.0},
        {"step": 20, "seconds": 2, "loss": 1.0, "kl": 3},
    ]
    curve.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert plots.read_curve(curve) == {"loss": ([10, 20], [2, 1]), "kl": ([20], [3])}


@pytest.mark.parametrize("content", ["", "no json\n", '{"loss": 1}\n', '{"step": 1}\n'])
def test_a_file_without_a_curve_is_refused(tmp_path: Path, content: str):
    curve = tmp_path / "teacher.jsonl"
    curve.write_text(content)
    with pytest.raises(ValueError, match=r"teacher\.jsonl"):
        plots.read_curve(curve)


def test_a_curve_becomes_a_small_plot(tmp_path: Path):
    curve = tmp_path / "teacher.jsonl"
    curve.write_text("".join(f'{{"step": {n}, "loss": {1 / n}}}\n' for n in range(1, 50)))
    plots.losses(tmp_path / "losses.png", curve, title="teacher")
    assert 2_000 < (tmp_path / "losses.png").stat().st_size < 100_000
