# SPDX-License-Identifier: Apache-2.0
"""python -m par_model.benchmark --checkpoint C: how long an observation takes to become actions.

    python -m par_model.benchmark --checkpoint checkpoints/par_small --backend eager onnx
    python -m par_model.benchmark --preset par_0_6b_p480 --backend compiled --json p480.json
    python -m par_model.benchmark --preset par_0_6b_p480 --part cache
    python -m par_model.benchmark --preset par_0_6b_p256 --part training --clips 8
    python -m par_model.benchmark --compare before.json after.json

Times are wall time on one process, warm-up left out, the device waited for, image in host memory
to actions in host memory; the context is as full as stated. --part chooses what is measured:
`control` (each graph and end to end), `cache` (the transformer with its cache against the same
answer computed anew from all slots), `steps` (sampling steps 1 to 100), `training` (steps of the
policy's training on synthetic clips, and how much of a GPU's peak they use). The bound is
par_model.roofline's; on a CPU its peak and bandwidth are measured in the same run.
"""

import json
import logging
import os
import resource
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from tyro.conf import arg, create_mutex_group

from par_model.backends.cpu_choice import cpu_name
from par_model.checkpoint import load_checkpoint
from par_model.command_line import default_is, output_file, parse, require_some, some_of
from par_model.export.untrained import untrained_checkpoint, untrained_sha256
from par_model.forward_model import read_forward_model
from par_model.graphs.contract import context_capacity, context_slots
from par_model.graphs.manifest import FILE_NAME, sha256_of
from par_model.latency import (
    Clock,
    Result,
    Rig,
    bounds,
    measure_cache,
    measure_control,
    measure_steps,
)
from par_model.load_policy import BACKENDS, ENGINES, Deployment, make_graphs, runtime_device
from par_model.model import PARModel
from par_model.output_files import write_text
from par_model.presets import preset
from par_model.roofline import gpu_of
from par_model.training.throughput import Training, measure_training

MIN_RUNS, WARM_UP_RUNS = 200, 20
TRAINING_RUNS, TRAINING_WARM_UP = 20, 5
_RUNS = f"{MIN_RUNS}; for training {TRAINING_RUNS}, for the cache part on a CPU 5"
_WARM_UP = f"{WARM_UP_RUNS}; for training {TRAINING_WARM_UP}, for the cache part on a CPU 1"

PROGRAM = "python -m par_model.benchmark"
_SOURCE = create_mutex_group(required=False)


@dataclass(frozen=True)
class BenchmarkOptions:
    """The command line."""

    # checkpoint folder
    checkpoint: Annotated[Path | None, _SOURCE, arg(metavar="DIR")] = None
    # random weights of this preset
    preset: Annotated[str | None, _SOURCE, arg(metavar="NAME")] = None
    # measured in this order, the first is the reference
    backend: Annotated[tuple[str, ...], some_of(BACKENDS)] = ("eager",)
    # what is measured, see above
    part: Literal["control", "cache", "steps", "training"] = "control"
    # sampling steps
    num_steps: Annotated[int | None, default_is("the checkpoint's")] = None
    # with --part training: clips of a step, each as long as the context
    clips: int = 4
    # slots in the context
    fill: Annotated[int | None, default_is("all but one")] = None
    # cpu or cuda; auto: CUDA if there
    device: str = "auto"
    # of PyTorch
    threads: Annotated[int | None, default_is("PyTorch's")] = None
    # TensorRT engines
    engines: Annotated[Path | None, arg(metavar="DIR"), default_is("trt_engines/NAME")] = None
    # runs that are measured
    runs: Annotated[int | None, default_is(_RUNS)] = None
    # runs left out before
    warm_up: Annotated[int | None, default_is(_WARM_UP)] = None
    # file to write; times are in milliseconds
    json: Annotated[Path | None, output_file()] = None
    # compare two files of --json instead
    compare: Annotated[tuple[Path, Path] | None, arg(metavar="JSON JSON")] = None

    def __post_init__(self) -> None:
        require_some("--backend", self.backend)


def main(arguments: list[str] | None = None) -> int:
    options = parse(BenchmarkOptions, PROGRAM, __doc__, arguments)
    given = sys.argv[1:] if arguments is None else arguments
    command = f"{PROGRAM} {shlex.join(given)}"
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("par_model").setLevel(logging.INFO)
    try:
        if options.compare:
            _compare(*options.compare)
        else:
            _measure(options, command)
    except ValueError as error:
        print(f"par_model.benchmark: {error}", file=sys.stderr)
        return 1
    return 0


# ---- the command


def _measure(options: BenchmarkOptions, command: str) -> None:
    needs_percentiles = options.part in ("control", "steps")
    if options.runs is not None and options.runs < MIN_RUNS and needs_percentiles:
        raise ValueError(f"--runs is {options.runs}; percentiles need at least {MIN_RUNS}.")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    deployment = _deployment(options)
    config = deployment.checkpoint.config
    held = context_slots(config)
    fill = held - 1 if options.fill is None else options.fill
    if not 0 <= fill < held:
        raise ValueError(f"--fill is {fill}; the context holds 0 to {held - 1} slots.")
    default_runs, default_warm_up = _default_runs(options.part, deployment.device)
    clock = Clock(
        deployment.device,
        default_runs if options.runs is None else options.runs,
        default_warm_up if options.warm_up is None else options.warm_up,
    )
    report: Result = {
        "what": deployment.name,
        "command": command,
        "part": options.part,
        "machine": _machine(deployment.device),
        "num_steps": deployment.num_steps,
        "context": {
            "filled_slots": fill,
            "slots": held,
            "capacity_tokens": context_capacity(config),
        },
    }
    if options.part == "control":
        forward_model = None
        if options.checkpoint is not None:
            stored = read_forward_model(options.checkpoint, deployment.checkpoint)
            forward_model = None if stored is None else stored.model
        rigs = {
            name: Rig(make_graphs(deployment, name), deployment.checkpoint, fill, forward_model)
            for name in options.backend
        }
        report["backends"] = measure_control(rigs, clock)
        report["kernel_launches"] = _kernel_launches(rigs, deployment.device)
        report["bound_ms"] = bounds(config, deployment.num_steps, fill, deployment.device)
        _print_control(report)
    elif options.part == "cache":
        model = deployment.checkpoint.model.to(deployment.device, deployment.dtype)
        assert isinstance(model, PARModel)
        report["cache"] = measure_cache(deployment.checkpoint, deployment.device, clock)
        _print_cache(report)
    elif options.part == "training":
        report["training"] = _training(deployment, options.clips, clock)
        _print_training(report)
    else:
        report["steps"] = {
            name: measure_steps(deployment, name, fill, clock) for name in options.backend
        }
        _print_steps(report)
    report["memory"] = _memory(deployment.device)
    print(f"memory: {json.dumps(report['memory'])}")
    if options.json is not None:
        write_text("the result", options.json, json.dumps(report, indent=1) + "\n")


def _default_runs(part: str, device: torch.device) -> tuple[int, int]:
    """Measured runs, and those left out before."""
    if part == "training":
        return TRAINING_RUNS, TRAINING_WARM_UP
    if part == "cache" and device.type == "cpu":
        return 5, 1
    return MIN_RUNS, WARM_UP_RUNS


def _training(deployment: Deployment, num_clips: int, clock: Clock) -> Result:
    if num_clips < 1:
        raise ValueError(f"--clips is {num_clips}; a step has at least one clip.")
    model, device = deployment.checkpoint.model, deployment.device
    assert isinstance(model, PARModel)
    training = Training.make(model, num_clips, device)
    gpu = gpu_of(torch.cuda.get_device_name()) if device.type == "cuda" else None
    peak = None if gpu is None else gpu.tflop_per_s
    return measure_training(training, clock, peak)


def _deployment(options: BenchmarkOptions) -> Deployment:
    device = runtime_device(options.device)
    if options.checkpoint is not None:
        checkpoint = load_checkpoint(options.checkpoint)
        name = options.checkpoint.resolve().name
        sha256 = sha256_of(options.checkpoint / FILE_NAME)
    elif options.preset is not None:
        config = preset(options.preset)
        checkpoint, name = untrained_checkpoint(config), f"{options.preset} (random weights)"
        sha256 = untrained_sha256(config)
    else:
        raise ValueError("give --checkpoint FOLDER or --preset NAME.")
    return Deployment(
        checkpoint=checkpoint,
        name=name.split(" ")[0],
        sha256=sha256,
        device=device,
        num_steps=(
            checkpoint.config.sampling.action_num_steps
            if options.num_steps is None
            else options.num_steps
        ),
        engines=options.engines or ENGINES / name.split(" ")[0],
    )


def _machine(device: torch.device) -> Result:
    machine: Result = {
        "date": time.strftime("%Y-%m-%d"),
        "device": device.type,
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "load_average": Path("/proc/loadavg").read_text().split()[:3],
    }
    if device.type == "cuda":
        machine["gpu"] = torch.cuda.get_device_name()
        machine["cuda"] = torch.version.cuda
        driver = Path("/proc/driver/nvidia/version")
        machine["driver"] = driver.read_text().splitlines()[0] if driver.is_file() else "unknown"
    return machine


def _memory(device: torch.device) -> Result:
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    memory: Result = {"host_peak_mib": kibibytes / 1024}
    if device.type == "cuda":
        # Tensors of all backends of this run; what TensorRT allocates itself is not among them.
        memory["torch_device_peak_mib"] = torch.cuda.max_memory_allocated(device) / 2**20
    return memory


def _kernel_launches(rigs: dict[str, Rig], device: torch.device) -> Result | None:
    """Of one control step, by the profiler: CUDA kernels that ran, and launches by the host (a
    CUDA graph is one). None on a CPU: no kernels are launched."""
    if device.type != "cuda":
        return None
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    launches = {}
    for name, rig in rigs.items():
        with profile(activities=[ProfilerActivity.CUDA]) as trace:
            rig.end_to_end()
            torch.cuda.synchronize(device)
        on_gpu = [event.name for event in trace.events() if event.device_type == DeviceType.CUDA]
        on_host = [event.name for event in trace.events() if event.device_type != DeviceType.CUDA]
        launches[name] = {
            "kernels": sum(not event.startswith(("Memcpy", "Memset")) for event in on_gpu),
            "host_launches": sum("Launch" in event for event in on_host),
        }
    return launches


def _print_control(report: Result) -> None:
    context = report["context"]
    print(
        f"{report['what']}, {report['num_steps']} sampling steps, context {context['filled_slots']}"
        f" of {context['slots']} slots filled ({context['capacity_tokens']} tokens of capacity)"
    )
    print(f"{'backend':10} {'graph':11} {'p50':>8} {'p95':>8} {'p99':>8} {'max':>8}  ms")
    for name, entry in report["backends"].items():
        for graph, times in entry["ms"].items():
            row = " ".join(f"{times[key]:8.2f}" for key in ("p50", "p95", "p99", "max"))
            print(f"{name:10} {graph:11} {row}")
        whole = entry["ms"]["end_to_end"]
        print(f"{name:10} end to end p99 is {whole['p99'] / whole['p50']:.2f} times its p50")
        print(
            f"{name:10} {entry['speed_over_first']:.2f} times the first backend's speed, actions "
            f"within {entry['actions_max_abs_from_first']:.2e} of it; {entry['runtime']}"
        )
    for name, counts in (report["kernel_launches"] or {}).items():
        print(
            f"{name:10} a control step is {counts['kernels']} kernels, by "
            f"{counts['host_launches']} launches of the host"
        )
    for machine, parts in report["bound_ms"].items():
        line = ", ".join(f"{name} {value:.3f}" for name, value in parts.items())
        print(f"bound on {machine}: {line} ms")
    own = list(report["bound_ms"])[-1] if report["machine"]["device"] == "cpu" else None
    gpu = gpu_of(report["machine"].get("gpu", ""))
    name = own or (gpu.name if gpu is not None else None)
    if name is not None:
        for backend, entry in report["backends"].items():
            ratio = entry["ms"]["end_to_end"]["p50"] / report["bound_ms"][name]["total"]
            entry["times_bound"] = ratio
            print(f"{backend}: end to end p50 is {ratio:.1f} times the bound on {name}")


def _print_cache(report: Result) -> None:
    cache = report["cache"]
    print(
        f"{report['what']}: newest of {cache['slots']} slots ({cache['tokens']} tokens), "
        f"transformer only: with cache p50 {cache['cached_ms']['p50']:.1f} ms, all slots anew "
        f"{cache['uncached_ms']['p50']:.1f} ms: {cache['speed']:.1f} times faster, outputs within "
        f"{cache['max_abs_difference']:.1e} ({cache['cached_ms']['runs']} runs each)"
    )
    if "cpu_time_speed" in cache:
        print(
            f"CPU time: {cache['cached_ms']['cpu_time_p50']:.1f} ms against "
            f"{cache['uncached_ms']['cpu_time_p50']:.1f} ms: {cache['cpu_time_speed']:.1f} times"
        )


def _print_training(report: Result) -> None:
    training = report["training"]
    times = training["step_ms"]
    print(
        f"{report['what']}: a training step of {training['clips']} clips ({training['slots']} "
        f"slots, {training['tokens']} tokens): p50 {times['p50']:.1f} ms, p95 {times['p95']:.1f} ms"
        f" ({times['runs']} runs): {training['tokens_per_s']:.0f} tokens/s, "
        f"{training['slots_per_s']:.1f} slots/s, {training['tflop_per_s']:.1f} TFLOP/s"
    )
    if "mfu" in training:
        print(
            f"model FLOP utilisation {training['mfu']:.1%} of "
            f"{training['peak_tflop_per_s']:.0f} TFLOP/s (roofline.py's peak of this GPU)"
        )


def _print_steps(report: Result) -> None:
    for name, rows in report["steps"].items():
        for num_steps, times in rows.items():
            act, whole = times["act_ms"], times["end_to_end_ms"]
            print(
                f"{name}: {num_steps:>3} steps: act p50 {act['p50']:.2f} ms, end to end p50 "
                f"{whole['p50']:.2f} p99 {whole['p99']:.2f} ms"
            )


def _compare(before_path: Path, after_path: Path) -> None:
    before, after = (_read(path) for path in (before_path, after_path))
    for key in ("machine", "num_steps", "context"):
        if before.get(key) != after.get(key):
            print(f"note: {key} differs: {before.get(key)} | {after.get(key)}")
    old, new = (dict(_leaves(report)) for report in (before, after))
    for name in sorted(set(old) | set(new)):
        a, b = old.get(name), new.get(name)
        if a is None or b is None:
            print(f"{name}: only in {before_path if b is None else after_path}")
        else:
            print(f"{name}: {a:.3f} -> {b:.3f} ms ({b / a:.2f} times)")


def _read(path: Path) -> Result:
    try:
        content = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no benchmark file ({error}); make one with --json.") from error
    if not isinstance(content, dict) or "part" not in content:
        raise ValueError(f"{path} is no benchmark file; make one with --json.")
    return content


def _leaves(value: Any, name: str = "") -> list[tuple[str, float]]:
    """(path, p50) of every summary in a report."""
    if not isinstance(value, dict):
        return []
    if "p50" in value:
        return [(f"{name} p50", value["p50"]), (f"{name} p99", value["p99"])]
    return [leaf for key, part in value.items() for leaf in _leaves(part, f"{name}/{key}")]


if __name__ == "__main__":
    sys.exit(main())
