import json
import math
import os
import signal

import pytest
import torch
from torch import nn

from sana_wm.training.loop import Ema, Interrupted, LoopConfig, autocast, compiled, lr_factor, run_stage
from sana_wm.training.optimizer import OptimizerConfig
from tests.training.toys import QuietLog, Regression

CONFIG = LoopConfig(
    steps=25, optimizer=OptimizerConfig(lr=0.02), warmup=5, ema=0.9, validate_every=0.0, checkpoint_every=0.0
)


def test_compiling_is_a_choice_and_auto_needs_a_compiler(monkeypatch):
    cpu, function = torch.device("cpu"), lambda x: x  # noqa: E731
    monkeypatch.setattr(torch, "compile", lambda f: ("compiled", f))
    assert compiled(function, "off", cpu) is function
    monkeypatch.setattr("shutil.which", lambda name: "/bin/g++" if name == "g++" else None)
    assert compiled(function, "auto", cpu) == ("compiled", function)
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert compiled(function, "auto", cpu) is function
    assert compiled(function, "on", cpu) == ("compiled", function)


@pytest.mark.parametrize("name", ["bf16", "compile"])
def test_modes_are_checked(name):
    with pytest.raises(ValueError, match=f"{name}='yes': expected 'auto', 'on' or 'off'"):
        LoopConfig(**{name: "yes"})


def train(folder, config=CONFIG, loss_fn=None, log=None):
    model = Regression()
    fn = (lambda step, progress: loss_fn(model, step, progress)) if loss_fn else model.losses
    scores = lambda m: {"norm": sum(float(p.detach().norm()) for p in m.parameters())}  # noqa: E731
    return run_stage("toy", model, fn, config, folder, log or QuietLog(), scores)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def kill_at(step, number):
    def losses(model, now, progress):
        if now == step:
            os.kill(os.getpid(), number)
        return model.losses(now, progress)

    return losses


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_kill_and_resume_is_the_uninterrupted_run(tmp_path, number):
    whole = train(tmp_path / "whole")
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    for step in (3, 3 + 7, 19):  # killed three times
        with pytest.raises(Interrupted, match=f"stopped at step {step + 1}.*same command"):
            train(tmp_path / "killed", loss_fn=kill_at(step, number))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    log = QuietLog()
    resumed = train(tmp_path / "killed", log=log)
    assert log.steps == list(range(21, 26)) and same(whole, resumed)


def test_a_crash_resumes_at_the_last_checkpoint(tmp_path):
    def crash(model, step, progress):
        if step == 12:
            raise RuntimeError("power cut")
        return model.losses(step, progress)

    with pytest.raises(RuntimeError, match="power cut"):
        train(tmp_path, loss_fn=crash)
    (tmp_path / "toy.safetensors.partial").write_bytes(b"half a checkpoint")
    assert same(train(tmp_path), train(tmp_path / "whole"))


def test_a_finished_stage_is_only_loaded(tmp_path):
    done = train(tmp_path)

    def never(model, step, progress):
        raise AssertionError("trained again")

    log = QuietLog()
    again = train(tmp_path, loss_fn=never, log=log)
    assert same(done, again) and log.steps == []
    assert not again.training and not any(p.requires_grad for p in again.parameters())


def test_training_learns_and_validates_with_the_average(tmp_path):
    log = QuietLog()
    steps = 150
    model = train(tmp_path, LoopConfig(steps=steps, optimizer=OptimizerConfig(lr=0.02), warmup=5, ema=0.9), log=log)
    with torch.no_grad():
        assert model.losses(10_000, 1.0)["loss"] < 0.2 * Regression().losses(10_000, 0.0)["loss"]
    step, values = log.values[-1]
    assert step == steps and values == {"toy/val/norm": sum(float(p.norm()) for p in model.parameters())}


def test_minutes_end_a_stage_and_drive_the_schedule(tmp_path):
    seen = []

    def losses(model, step, progress):
        seen.append(progress)
        return model.losses(step, progress)

    log = QuietLog()
    train(tmp_path, LoopConfig(steps=10**9, minutes=0.2 / 60, optimizer=OptimizerConfig(lr=0.01)), losses, log)
    assert 1 <= len(log.steps) < 10_000 and seen[0] == 0
    assert seen == sorted(seen) and seen[-1] <= 1


def test_a_gradient_that_is_not_finite_stops_with_a_checkpoint(tmp_path):
    def explode(model, step, progress):
        losses = model.losses(step, progress)
        return {"loss": losses["loss"] * (math.nan if step == 6 else 1.0)}

    with pytest.raises(FloatingPointError, match="stage toy: gradient is nan at step 6; lower lr"):
        train(tmp_path, loss_fn=explode)
    log = QuietLog()
    resumed = train(tmp_path, log=log)
    assert log.steps[0] == 7 and all(torch.isfinite(p).all() for p in resumed.parameters())


def test_the_average_is_a_plain_recursion():
    torch.manual_seed(0)
    model, decay = nn.Linear(3, 2), 0.8
    ema = Ema(model, decay)
    expected = {name: p.detach().clone() for name, p in model.named_parameters()}
    for n in range(1, 60):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        ema.update(model)
        d = min(decay, (1 + n) / (10 + n))
        expected = {name: d * expected[name] + (1 - d) * p.detach() for name, p in model.named_parameters()}
    live = {name: p.detach().clone() for name, p in model.named_parameters()}
    ema.copy_to(model)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), expected[name])
        assert not torch.allclose(p.detach(), live[name])


def test_the_rate_warms_up_and_falls_to_its_floor():
    config = LoopConfig(warmup=10, min_lr=0.1)
    assert [lr_factor(config, step, 0.0) for step in (0, 4, 9, 50)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert lr_factor(config, 99, 0.5) == pytest.approx(0.55) and lr_factor(config, 99, 1.0) == pytest.approx(0.1)
    assert lr_factor(config, 99, 1.7) == pytest.approx(0.1)
    falling = [lr_factor(config, 99, p / 20) for p in range(21)]
    assert falling == sorted(falling, reverse=True)
    assert lr_factor(LoopConfig(warmup=0), 0, 0.0) == 1.0


def test_unknown_precision_is_refused():
    with autocast(torch.device("cpu"), "on"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with autocast(torch.device("cpu"), "off"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_run_log_writes_lines_that_json_reads(tmp_path):
    from sana_wm.training.logging import RunLog

    log = RunLog(tmp_path, {"seed": 0})
    with log.stage("toy", 100) as show:
        for step in range(1, 101):
            show(step, None, {"loss": torch.tensor(2.0)})
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["step"], line["toy/loss"]) for line in lines] == [(50, 2.0), (100, 2.0)]
