# SPDX-License-Identifier: Apache-2.0
"""The training benchmark: its work is that of the real step, its figures follow from the times."""

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from par_model import benchmark
from par_model.export.untrained import untrained_checkpoint
from par_model.latency import Clock
from par_model.presets import preset
from par_model.training.throughput import (
    Training,
    mean_mask_ratio,
    measure_training,
    step_tflop,
)

TINY = preset("par_tiny")


def training(num_clips: int = 2) -> Training:
    model = untrained_checkpoint(TINY).model
    return Training.make(model, num_clips, torch.device("cpu"))


def test_the_counted_work_is_that_of_a_real_step() -> None:
    made = training()
    with FlopCounterMode(display=False) as counter:
        made.step(0, mask_ratio=0.8)
    counted = step_tflop(TINY, made.loss, 2, mask_ratio=0.8)
    assert counted == pytest.approx(counter.get_total_flops() / 1e12, rel=1e-9)
    assert step_tflop(TINY, made.loss, 4, mask_ratio=0.8) == pytest.approx(2 * counted, rel=0.05)


def test_a_step_trains_the_weights_and_their_average() -> None:
    made = training()
    before = {n: p.detach().clone() for n, p in made.loss.model.named_parameters()}
    average = [p.clone() for p in made.average.model.parameters()]
    made.step(0, mask_ratio=0.8)
    moved = [n for n, p in made.loss.model.named_parameters() if not torch.equal(p, before[n])]
    assert len(moved) > 0.9 * len(before)
    now = made.average.model.parameters()
    assert any(not torch.equal(a, b) for a, b in zip(average, now, strict=True))


def test_figures_follow_from_the_median_time() -> None:
    result = measure_training(training(), Clock(torch.device("cpu"), 3, 1), peak_tflop_per_s=0.5)
    seconds = result["step_ms"]["p50"] / 1e3
    assert result["step_ms"]["runs"] == 3
    assert result["slots"] == 2 * TINY.num_slots
    assert result["tokens"] == 2 * (TINY.num_prefix_tokens + TINY.num_slots * TINY.slot_length)
    assert result["tokens_per_s"] == pytest.approx(result["tokens"] / seconds)
    assert result["tflop_per_s"] == pytest.approx(result["tflop"] / seconds)
    assert result["mfu"] == pytest.approx(result["tflop_per_s"] / 0.5)
    assert result["mask_ratio"] == mean_mask_ratio(TINY)
    assert TINY.loss.mask_ratio_low < result["mask_ratio"] < 1.0


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--preset", "par_tiny", "--part", "training", "--device", "cpu"]
    file = tmp_path / "t.json"
    assert benchmark.main([*arguments, "--runs", "2", "--clips", "1", "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    assert report["training"]["step_ms"]["runs"] == 2
    assert "mfu" not in report["training"], "a CPU's peak is not known here"
    assert "a training step of 1 clips (6 slots" in capsys.readouterr().out
    assert benchmark.main([*arguments, "--clips", "0"]) == 1
    assert "--clips is 0" in capsys.readouterr().err
