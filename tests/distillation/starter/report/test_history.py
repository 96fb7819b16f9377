import json
from pathlib import Path

import pytest

from distillation.starter.report.history import History, HistoryUnusable


def test_curves_and_times_are_read_by_stage(tmp_path: Path):
    (tmp_path / "vae.jsonl").write_text('{"step": 1, "seconds": 2.0, "loss": 0.5}\n')
    for stage, needs in (("latents", {"vae": "vae-1"}), ("scenes", {}), ("vae", {"scenes": "s-1"})):
        record = {"seconds": 60, "machine": {"cores": 2}, "needs": needs}
        (tmp_path / f"{stage}.json").write_text(json.dumps(record))
    history = History.read(tmp_path)
    assert history.curves == {"vae": tmp_path / "vae.jsonl"}
    assert [time.stage for time in history.times] == ["scenes", "vae", "latents"]
    assert (history.times[1].seconds, history.times[1].machine) == (60, {"cores": 2})


def test_a_damaged_or_missing_history_is_refused(tmp_path: Path):
    with pytest.raises(HistoryUnusable, match="make starter"):
        History.read(tmp_path / "nothing")
    (tmp_path / "vae.json").write_text("{}")
    with pytest.raises(HistoryUnusable, match=r"vae\.json"):
        History.read(tmp_path)
