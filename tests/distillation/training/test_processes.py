"""Two processes that accelerate launches train as one would, stop together, and resume together."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from distillation.trainers import pairs
from distillation.trainers import teacher as teachers
from distillation.training import checkpoint, processes
from distillation.training.errors import RecipeRefused, TrainingError
from tests.distillation.training import several
from tests.tiny import make_tiny_release

ROOT = Path(__file__).resolve().parents[3]
SECONDS = 900  # at most: other tests may keep the machine busy


def launch(*arguments: str, folder: Path) -> subprocess.Popen[bytes]:
    """Two processes; what they print goes to folder/log."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    command += ["--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    command += ["--dynamo_backend", "no", "--main_process_port", str(port)]
    command += ["-m", several.__name__, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)


def kept(folder: Path, name: str) -> list[dict[str, torch.Tensor]]:
    """Return the final state of each process without the random numbers that it drew."""
    return [
        {key: value for key, value in tensors.items() if not key.startswith("draw")}
        for tensors in (load_file(folder / f"{name}-{rank}.safetensors") for rank in range(2))
    ]


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for key, value in left.items():
        assert torch.equal(value, right[key]), key


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """The folder in which two processes have done `several.together`."""
    folder = tmp_path_factory.mktemp("two")
    make_tiny_release(folder / "teacher")
    process = launch("together", str(folder), folder=folder)
    assert process.wait(SECONDS) == 0, (folder / "log").read_text()
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> several.Line:
    """A task that one process has trained on the whole batch."""
    task = several.Line()
    several.train(task, tmp_path_factory.mktemp("one"))
    return task


@pytest.mark.slow
def test_two_processes_hold_the_same_weights_bit_for_bit(two):
    assert_same(*kept(two, "whole"))


@pytest.mark.slow
def test_two_processes_train_as_one_does_with_the_whole_batch(two, one):
    state = kept(two, "whole")[0]
    for key, value in state.items():
        assert torch.allclose(value, one.state()[key], rtol=0, atol=1e-6), key
    start = several.Line().state()
    assert any((value - start[key]).abs().max() > 1e-3 for key, value in state.items())


@pytest.mark.slow
def test_each_process_draws_its_own_numbers_and_the_main_one_those_of_a_single_process(two, one):
    main, other = (load_file(two / f"whole-{rank}.safetensors") for rank in range(2))
    for number in range(several.STEPS):
        assert torch.equal(main[f"draw.{number}"], one.state()[f"draw.{number}"])
        assert not torch.equal(main[f"draw.{number}"], other[f"draw.{number}"])


@pytest.mark.slow
def test_losses_are_means_over_the_processes_and_written_once(two, one, tmp_path):
    several.train(several.Line(), tmp_path)
    ours, alone = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (two / "whole", tmp_path)
    )
    assert [line["step"] for line in ours] == list(range(1, several.STEPS + 1))
    for mine, its in zip(ours, alone, strict=True):
        assert mine["loss"] == pytest.approx(its["loss"], abs=1e-5)
        assert mine["norm"] == pytest.approx(its["norm"], abs=1e-5)
    assert len(list((two / "whole" / "tensorboard").iterdir())) == 1


@pytest.mark.slow
def test_a_signal_to_one_process_ends_both_after_the_step_and_both_resume_from_there(two):
    for rank in range(2):
        found = json.loads((two / f"found-{rank}.json").read_text())
        assert found["exit"] == 128 + signal.SIGTERM
        assert found["step"] == several.STEPS
        assert found["drawn"] == several.STEPS - 4
    resumed, again = kept(two, "resumed")
    assert_same(resumed, again)
    assert_same(resumed, kept(two, "whole")[0])


@pytest.mark.slow
def test_a_loss_that_is_not_finite_in_one_process_stops_both_at_the_same_step(two):
    for rank in range(2):
        assert json.loads((two / f"found-{rank}.json").read_text())["diverged"] == 3
    assert not (two / "diverged" / checkpoint.FILE).exists()


@pytest.mark.slow
def test_two_processes_share_the_making_of_pairs(two, tmp_path):
    teacher = teachers.load(two / "teacher", device="cpu")
    pairs.generate(
        several.PAIRS,
        teacher=teacher,
        catalogue=several.catalogue(teacher),
        detector=None,
        folder=tmp_path,
        store=tmp_path,
        progress_bar=False,
    )
    names = sorted(path.name for path in tmp_path.iterdir())
    assert sorted(path.name for path in (two / "pairs").iterdir()) == names
    for split in pairs.SPLITS:
        ours, alone = pairs.read(two / "pairs", split), pairs.read(tmp_path, split)
        assert torch.equal(ours.seeds, alone.seeds)
        assert torch.equal(ours.latents, alone.latents)


@pytest.mark.slow
def test_every_stage_trains_in_two_processes_to_the_same_weights_bit_for_bit(tmp_path):
    make_tiny_release(tmp_path / "teacher", prediction_type="v_prediction", zero_snr=True)
    process = launch("stages", str(tmp_path), folder=tmp_path)
    assert process.wait(SECONDS) == 0, (tmp_path / "log").read_text()
    for stage in several.TRAINED:
        assert_same(*kept(tmp_path, stage))
        (folder,) = (tmp_path / "built").glob(f"{stage}-*")
        assert (folder / "done.json").exists()
        assert json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 3


@pytest.mark.slow
def test_two_stopped_processes_leave_one_checkpoint_and_the_same_command_continues(tmp_path):
    process = launch("until_stopped", str(tmp_path), folder=tmp_path)
    metrics = tmp_path / "metrics.jsonl"
    deadline = time.monotonic() + SECONDS
    while not metrics.exists() or metrics.read_text().count("\n") < 3:
        assert process.poll() is None and time.monotonic() < deadline, (
            tmp_path / "log"
        ).read_text()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(SECONDS) != 0
    reached = json.loads(metrics.read_text().splitlines()[-1])["step"]
    assert torch.load(tmp_path / checkpoint.FILE)["progress"]["step"] == reached < 60

    process = launch("until_stopped", str(tmp_path), folder=tmp_path)
    assert process.wait(SECONDS) == 0, (tmp_path / "log").read_text()
    assert_same(*kept(tmp_path, "paced"))
    assert sum("draw" in key for key in load_file(tmp_path / "paced-0.safetensors")) == 60 - reached
    lines = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert lines == list(range(1, 61))


# --- a single process -----------------------------------------------------------------------------
def test_a_single_process_is_the_main_one_and_has_the_whole_batch():
    assert (processes.count(), processes.rank(), processes.is_main()) == (1, 0, True)
    assert processes.share(7) == 7
    assert processes.device("auto") == "auto"
    assert processes.mean({"loss": 2.5}) == {"loss": 2.5}
    assert processes.any_of(True) and not processes.any_of(False)


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 2)
    assert processes.share(8) == 4
    with pytest.raises(RecipeRefused, match=r"batch.*7.*2 processes"):
        processes.share(7)


def test_a_launcher_that_starts_one_process_in_place_of_several_is_refused(monkeypatch):
    """As `accelerate launch --cpu --num_processes 2` does: each of them would train alone."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    for name in processes.RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(TrainingError, match="--multi_gpu"):
        processes._state.__wrapped__()
