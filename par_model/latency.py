# SPDX-License-Identifier: Apache-2.0
"""How long a control step and its parts take, and the least that they could: what
`python -m par_model.benchmark` measures.

Times are wall time on one process, warm-up left out, the device waited for, image in host memory
to actions in host memory.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from par_model.checkpoint import Checkpoint
from par_model.config import ModelConfig
from par_model.forward_model import ForwardModel
from par_model.graphs.goldens import RolloutStep, rollout_steps
from par_model.graphs.policy_graphs import Expectation, PolicyGraphs, Slot, as_float32, slot_inputs
from par_model.load_policy import Deployment, make_graphs
from par_model.roofline import GPUS, Gpu, Networks, policy_phases

_STEP_SWEEP = (1, 2, 4, 10, 50, 100)
_RUNS_IN_TURN = 20
Result = dict[str, Any]
Times = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Clock:
    """Measures calls on a device, one at a time."""

    device: torch.device
    num_runs: int
    num_warm_up: int

    def measure(self, call: Callable[[], object]) -> dict[str, float]:
        """`summary` of the wall times; on a CPU with the median of the process's own CPU time
        (all threads), which other programs disturb less."""
        return self.measure_in_turn({"": call})[""]

    def measure_in_turn(
        self, calls: Mapping[str, Callable[[], object]]
    ) -> dict[str, dict[str, float]]:
        """`measure` of several calls, a block of runs of each in turn, so that what else the
        machine does meets all of them."""
        times = {name: [self._times_ms(call, 0, self.num_warm_up)] for name, call in calls.items()}
        for done in range(0, self.num_runs, _RUNS_IN_TURN):
            count = min(_RUNS_IN_TURN, self.num_runs - done)
            for name, call in calls.items():
                times[name].append(self._times_ms(call, count, 0))
        result = {}
        for name, blocks in times.items():
            wall_ms, cpu_ms = np.concatenate(blocks, axis=1)
            result[name] = summary(wall_ms)
            if self._on_cpu:
                result[name]["cpu_time_p50"] = float(np.median(cpu_ms))
        return result

    def best_ms(self, call: Callable[[], object]) -> float:
        """The shortest wall time."""
        return float(self._times_ms(call, self.num_runs, self.num_warm_up)[0].min())

    def _times_ms(self, call: Callable[[], object], num_runs: int, num_warm_up: int) -> Times:
        """[2, num_runs]: wall and CPU time of every run."""
        for _ in range(num_warm_up):
            call()
        times = np.empty((2, num_runs))
        for run in range(num_runs):
            self._wait()
            start, cpu_start = time.perf_counter(), time.process_time()
            call()
            self._wait()
            times[0, run] = 1e3 * (time.perf_counter() - start)
            times[1, run] = 1e3 * (time.process_time() - cpu_start)
        return times

    @property
    def _on_cpu(self) -> bool:
        return self.device.type == "cpu"

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def summary(times_ms: Sequence[float] | np.ndarray[Any, Any]) -> dict[str, float]:
    """p50, p95, p99, max, mean in milliseconds, and the number of runs."""
    times = np.asarray(times_ms)
    p50, p95, p99 = (float(value) for value in np.percentile(times, (50, 95, 99)))
    return {
        "p50": p50,
        "p95": p95,
        "p99": p99,
        "max": float(times.max()),
        "mean": float(times.mean()),
        "runs": len(times),
    }


class Rig:
    """A backend with a context of `fill` slots, ready for the next observation.

    Its cache is never lengthened: each measured step appends to the same cache again.
    """

    def __init__(
        self,
        graphs: PolicyGraphs,
        checkpoint: Checkpoint,
        fill: int,
        forward_model: ForwardModel | None = None,
    ) -> None:
        """forward_model: what surprise judges pictures by; None: the frame head."""
        config = checkpoint.config
        self.forward_model = forward_model
        self.graphs, self.fill = graphs, fill
        self.text = as_float32(checkpoint.instructions.embeddings_ITC[0].float())
        *before, self.newest = rollout_steps(config, fill + 1, seed=1)
        self.cache = graphs.prefill(self.text)
        if before:
            slots = slot_inputs([self._slot(step, n) for n, step in enumerate(before)])
            self.cache = graphs.extend(self.cache, slots, 0, True).cache
        self.latent = graphs.encode(self.newest.image)
        self.context = self.extend()
        self.foretold = self.foretell()

    def encode(self) -> Any:
        return self.graphs.encode(self.newest.image)

    def extend(self, latent: Any | None = None) -> Any:
        slot = self._slot(self.newest, self.fill, self.latent if latent is None else latent)
        return self.graphs.extend(self.cache, slot_inputs([slot]), self.fill, self.fill == 0).last

    def _slot(self, step: RolloutStep, index: int, latent: Any | None = None) -> Slot:
        if latent is None:
            latent = self.graphs.encode(step.image)
        clock = index * self.graphs.config.num_actions
        return Slot(latent, step.actions, step.proprio, step.executed, clock)

    def act(self) -> Any:
        return self.graphs.act(self.context, self.newest.noise, 0)

    def foretell(self) -> Any:
        """What `surprise` needs of the frame head, while the arm moves: no part of a step."""
        return self.graphs.foretell(Expectation(self.context, self.context))

    def surprise(self) -> Any:
        """How badly the newest latent was foretold, which is no part of a step unless asked for."""
        if self.forward_model is not None:
            latent, joints = as_float32(self.latent), self.newest.proprio
            return self.forward_model.errors(latent, latent, joints, joints)
        return self.graphs.observed_errors(self.foretold, self.latent)

    def end_to_end(self) -> Any:
        """Image in host memory to actions in host memory."""
        return self.graphs.act(self.extend(self.encode()), self.newest.noise, 0)


def measure_control(rigs: dict[str, Rig], clock: Clock) -> Result:
    """Each graph and end to end, the backends in turn; actions are compared with the first's."""
    times = {
        part: clock.measure_in_turn({name: getattr(rig, part) for name, rig in rigs.items()})
        for part in ("encode", "extend", "act", "end_to_end", "surprise", "foretell")
    }
    reference, result = None, {}
    for name, rig in rigs.items():
        actions = rig.end_to_end()
        reference = actions if reference is None else reference
        result[name] = {
            "runtime": rig.graphs.name,
            "ms": {part: of[name] for part, of in times.items()},
            "actions_max_abs_from_first": float(np.abs(actions - reference).max()),
        }
    first = next(iter(result.values()))["ms"]["end_to_end"]["p50"]
    for entry in result.values():
        entry["speed_over_first"] = first / entry["ms"]["end_to_end"]["p50"]
    return result


def measure_cache(checkpoint: Checkpoint, device: torch.device, clock: Clock) -> Result:
    """The newest slot with a cache of all others, and all slots anew without one; PyTorch eager,
    transformer only (tokens embedded in both), the same process and weights."""
    config, model = checkpoint.config, checkpoint.model
    kind = model.tokenizer.frame_embed.weight
    generator = torch.Generator().manual_seed(0)
    latent = (config.codec.latent_channels, config.latent_height, config.latent_width)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device, kind.dtype)

    num_slots = config.num_slots
    latents = draw(1, num_slots, *latent)
    actions = draw(1, num_slots, config.num_actions, config.action_width)
    proprio = draw(1, num_slots, config.proprio_width) if config.proprio_width else None
    text = draw(1, config.num_text_tokens, config.text_width)
    last = slice(num_slots - 1, num_slots)
    earlier = slice(0, num_slots - 1)

    def part(values: torch.Tensor | None, chosen: slice) -> torch.Tensor | None:
        return None if values is None else values[:, chosen]

    with torch.inference_mode():
        cache = model.prefill(text)
        _, cache = model.extend(
            cache, text, latents[:, earlier], actions[:, earlier], part(proprio, earlier), 0, True
        )

        def cached() -> torch.Tensor:
            context, _ = model.extend(
                cache,
                text,
                latents[:, last],
                actions[:, last],
                part(proprio, last),
                num_slots - 1,
                False,
            )
            return context.action_BNZC[:, -1]

        def anew() -> torch.Tensor:
            offset = torch.zeros(1, dtype=torch.int64, device=device)
            context = model.encode_clip(text, latents, actions, proprio, offset)
            return context.action_BNZC[:, -1]

        difference = float((cached() - anew()).abs().max())
        with_cache, without = clock.measure(cached), clock.measure(anew)
    return {
        "slots": num_slots,
        "tokens": config.cache_capacity,
        "cached_ms": with_cache,
        "uncached_ms": without,
        "speed": without["p50"] / with_cache["p50"],
        **_cpu_speed(with_cache, without),
        "max_abs_difference": difference,
    }


def _cpu_speed(with_cache: dict[str, float], without: dict[str, float]) -> dict[str, float]:
    name = "cpu_time_p50"
    return {"cpu_time_speed": without[name] / with_cache[name]} if name in with_cache else {}


def measure_steps(deployment: Deployment, backend: str, fill: int, clock: Clock) -> Result:
    """End to end over the number of sampling steps."""
    result: Result = {}
    for num_steps in _STEP_SWEEP:
        chosen = replace(deployment, num_steps=num_steps)
        rig = Rig(make_graphs(chosen, backend), deployment.checkpoint, fill)
        result[str(num_steps)] = {
            "act_ms": clock.measure(rig.act),
            "end_to_end_ms": clock.measure(rig.end_to_end),
        }
    return result


def bounds(config: ModelConfig, num_steps: int, fill: int, device: torch.device) -> Result:
    """Lower bounds of a control step after `fill` slots, in milliseconds, by machine."""
    networks = Networks.build(config)
    phases = policy_phases(networks, num_steps, fill)
    result = {gpu.name: {phase.name: phase.bound_ms(gpu) for phase in phases} for gpu in GPUS}
    if device.type == "cpu":
        # Weights and cache are float32 here: twice the bytes.
        read_once = sum(2e6 * phase.megabytes for phase in policy_phases(networks, 1, fill))
        cpu = measured_cpu(int(read_once))
        wide = [replace(phase, megabytes=2 * phase.megabytes) for phase in phases]
        result[cpu.name] = {phase.name: phase.bound_ms(cpu) for phase in wide}
    return {name: {**parts, "total": sum(parts.values())} for name, parts in result.items()}


def measured_cpu(num_bytes: int) -> Gpu:
    """This CPU's float32 matrix peak and bandwidth, measured now with torch's threads: the best of
    20 copies of one half of `num_bytes` to the other, so that a small model is read from the
    processor's caches in the bound as in reality."""
    clock = Clock(torch.device("cpu"), 20, 5)
    a, b, product = torch.zeros(3, 1024, 1024)
    source, target = torch.zeros(2, max(1, num_bytes // 8))
    matmul_ms = clock.best_ms(lambda: torch.mm(a, b, out=product))
    copy_ms = clock.best_ms(lambda: target.copy_(source))
    return Gpu(
        f"this CPU, {torch.get_num_threads()} threads, measured",
        2 * 1024**3 / matmul_ms / 1e9,
        2 * source.nbytes / copy_ms / 1e9,
    )
