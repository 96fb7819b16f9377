"""A checkpoint is the old one or the new one after a kill at any instant, and damage is refused before loading."""

from pathlib import Path

import pytest
import torch

from distillation.training import checkpoint
from distillation.training.checkpoint import restore, save
from distillation.training.ema import Ema
from distillation.training.errors import CheckpointUnusable
from distillation.training.task import Progress


class Line:
    """A linear network, trained for one step so that the optimizer has a state."""

    def __init__(self, width: int = 2, value: float = 1.0, *, sgd: bool = False) -> None:
        self.network = torch.nn.Linear(width, 1)
        torch.nn.init.constant_(self.network.weight, value)
        self.average = Ema(self.network)
        self.modules = {"line": self.network}
        self.emas = {"line": self.average}
        parameters = self.network.parameters()
        optimizer = torch.optim.SGD(parameters) if sgd else torch.optim.AdamW(parameters, lr=0.1)
        self.optimizers = {"sgd" if sgd else "adamw": optimizer}
        self.network(torch.ones(1, width)).sum().backward()
        optimizer.step()
        self.average.update()

    def step(self, index: int, generator: torch.Generator) -> dict[str, float]:
        return {}


def saved_step(folder: Path) -> int | None:
    checkpoint.settle(folder)
    progress = restore(folder, Line(value=9.0))
    return None if progress is None else progress.step


def test_a_saved_checkpoint_is_restored_completely(tmp_path):
    one, other = Line(value=3.0), Line(value=-1.0)
    one.average.updates = 12
    save(tmp_path, one, Progress(4, 10, 2.5))
    assert restore(tmp_path, other) == Progress(4, 10, 2.5)
    assert torch.equal(other.network.weight, one.network.weight)
    assert torch.equal(other.average.module.weight, one.average.module.weight)
    assert other.average.updates == 12
    left, right = (task.optimizers["adamw"].state_dict() for task in (one, other))
    assert left["param_groups"] == right["param_groups"]
    assert left["state"].keys() == right["state"].keys() == {0, 1}
    for index, values in left["state"].items():
        assert values.keys() == right["state"][index].keys()
        assert all(torch.equal(value, right["state"][index][key]) for key, value in values.items())


def test_a_missing_checkpoint_restores_nothing(tmp_path):
    assert restore(tmp_path / "not yet", Line()) is None


class Killed(BaseException):
    pass


@pytest.mark.parametrize("has_old", [False, True])
@pytest.mark.parametrize("killed", ["torch.save", "os.fsync", "os.replace"])
def test_a_kill_at_any_system_call_leaves_the_old_or_the_new_checkpoint(
    tmp_path, monkeypatch, killed, has_old
):
    if has_old:
        save(tmp_path, Line(), Progress(1, 9, 0))

    def kill(*arguments, **options):
        if killed == "torch.save":
            arguments[1].write_bytes(b"half")
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(killed, kill)
        save(tmp_path, Line(), Progress(2, 9, 0))
    assert saved_step(tmp_path) == (1 if has_old else None)
    # And the next one succeeds, with nothing left over.
    save(tmp_path, Line(), Progress(3, 9, 0))
    assert saved_step(tmp_path) == 3
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.FILE]


def test_the_order_in_memory_does_not_matter_but_is_kept_for_the_moments(tmp_path):
    def task():
        made = Line()
        made.network = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        made.average = Ema(made.network)
        made.modules, made.emas = {"line": made.network}, {"line": made.average}
        made.optimizers = {"adamw": torch.optim.AdamW(made.network.parameters())}
        return made

    one, other = task(), task()
    one.network(torch.ones(1, 3, 4, 4)).sum().backward()
    one.optimizers["adamw"].step()
    save(tmp_path, one, Progress(1, 1, 0))
    restore(tmp_path, other)
    moment = other.optimizers["adamw"].state[other.network.weight]["exp_avg"]
    assert moment.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(moment, one.optimizers["adamw"].state[one.network.weight]["exp_avg"])


def test_tied_weights_are_saved_and_restored(tmp_path):
    def task(value: float) -> Line:
        made = Line(value=value)
        made.network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
        made.network[1].weight = made.network[0].weight
        made.modules, made.emas = {"line": made.network}, {}
        made.optimizers = {"adamw": torch.optim.AdamW(made.network.parameters())}
        return made

    one, other = task(1.0), task(2.0)
    save(tmp_path, one, Progress(1, 1, 0))
    restore(tmp_path, other)
    for key, value in one.network.state_dict().items():
        assert torch.equal(value, other.network.state_dict()[key])


def test_saving_changes_nothing_in_the_task(tmp_path):
    task = Line(value=3.0)
    before = task.network.weight.detach().clone()
    place = task.network.weight.data_ptr()
    save(tmp_path, task, Progress(1, 9, 0))
    assert torch.equal(task.network.weight, before) and task.network.weight.data_ptr() == place
    with torch.no_grad():
        task.network.weight.zero_()  # what is on disk does not follow
    other = Line()
    restore(tmp_path, other)
    assert torch.equal(other.network.weight, before)


@pytest.mark.parametrize("content", [b"", b"PK", "cut"])
def test_a_damaged_file_is_named(tmp_path, content):
    save(tmp_path, Line(), Progress(1, 9, 0))
    path = tmp_path / checkpoint.FILE
    path.write_bytes(path.read_bytes()[:-90] if content == "cut" else content)
    with pytest.raises(CheckpointUnusable, match=checkpoint.FILE) as caught:
        restore(tmp_path, Line())
    assert "delete" in str(caught.value)


def test_a_file_with_pickled_objects_is_refused_without_creating_them(tmp_path):
    torch.save({"format_version": 2, "modules": Path("/")}, tmp_path / checkpoint.FILE)
    with pytest.raises(CheckpointUnusable, match="cannot be read"):
        restore(tmp_path, Line())


@pytest.mark.parametrize("task", [Line(width=3), Line(sgd=True)])
def test_a_checkpoint_of_another_task_is_refused_before_the_task_is_changed(tmp_path, task):
    save(tmp_path, Line(value=5.0), Progress(1, 9, 0))
    before = task.network.weight.clone()
    with pytest.raises(CheckpointUnusable):
        restore(tmp_path, task)
    assert torch.equal(task.network.weight, before)


def test_another_format_version_is_refused(tmp_path):
    torch.save({"format_version": 3}, tmp_path / checkpoint.FILE)
    with pytest.raises(CheckpointUnusable, match=r"version 2\. To restart .*, delete it"):
        restore(tmp_path, Line())
