# SPDX-License-Identifier: Apache-2.0
"""Every command line in README.md, docs/, checkpoints/, config/, docker/ and the commands' own
docstrings is one that the commands read; every option has its help and its default."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from par_model import (
    benchmark,
    calibrate,
    collect,
    command_line,
    convert_nova,
    describe,
    episode_rate,
    evaluate,
    export_trt,
    import_lerobot,
    perception,
    play_expert,
    release,
    video_generation,
    visualize,
)
from par_model.command_line import parse
from par_model.training import stage_options
from par_ros import __main__ as par_ros_main
from par_ros import replay
from par_ros.dataset import command as to_dataset
from par_ros.graph_arguments import parse_arguments
from par_ros.proof import asked_limits, faults, fuzz, guard_latency, same_targets, soak

ROOT = Path(__file__).resolve().parents[2]

OPTIONS: dict[str, Any] = {
    "par_model.train": stage_options.Stage,
    "par_model.evaluate": evaluate.EvaluateOptions,
    "par_model.calibrate": calibrate.CalibrateOptions,
    "par_model.collect": collect.CollectOptions,
    "par_model.episode_rate": episode_rate.EpisodeRateOptions,
    "par_model.export_trt": export_trt.ExportOptions,
    "par_model.benchmark": benchmark.BenchmarkOptions,
    "par_model.release": release.ReleaseOptions,
    "par_model.video_generation": video_generation.VideoOptions,
    "par_model.visualize": visualize.Figure,
    "par_model.perception": perception.Command,
    "par_model.play_expert": play_expert.PlayOptions,
    "par_model.describe": describe.DescribeOptions,
    "par_model.convert_nova": convert_nova.ConvertOptions,
    "par_model.import_lerobot": import_lerobot.ImportOptions,
    "par_ros replay": replay.ReplayOptions,
    "par_ros to_dataset": to_dataset.ToDatasetOptions,
    "par_ros limits": asked_limits.LimitsOptions,
    "par_ros faults": faults.FaultOptions,
    "par_ros fuzz": fuzz.FuzzOptions,
    "par_ros soak": soak.SoakOptions,
    "par_ros same_targets": same_targets.SameTargetsOptions,
    "par_ros guard_latency": guard_latency.LatencyOptions,
}
SUBCOMMANDS = {
    "par_model.train": (
        "codec",
        "probe",
        "latents",
        "frames",
        "policy",
        "all",
        "ablations",
        "recipe",
    ),
    "par_model.perception": ("scenes", "show", "cameras", "readout", "history"),
    "par_model.visualize": ("prediction", "positions", "failures", "tasks", "attention", "all"),
}

# Every flag of the releases before tyro, by command.
STAGE = (
    "--reset-pictures --threads --preset --variants --latents --probe-tasks --seed "
    "--num-reset-pictures --finetune --codec"
)
CODEC = (
    f"{STAGE} --data --leave-out --out --codec-steps --codec-learning-rate --start-from "
    "--decoder-only --frames "
    "--scenes --position-weight"
)
PROBE = "--probe-steps --frame-patch --frame-stem"
LEARNING = (
    "--data --leave-out --out --steps --hours --lora-rank --resume --device --shares "
    "--learning-rate --warmup-steps --slots-per-batch --context-noise --from --new-statistics "
    "--steps-after-success --scene-weight --chunk-weight --average-decay --from-start-share "
    "--sampling --context-slots "
    "--single-slot-share --max-clip-slots --offset-share --random-span-share --late-start-share "
    "--slow-start-share --no-prefix-share "
    "--max-episodes --evaluate-every --scenes --picture-weight "
    "--pictures-per-step --on-policy-share --decisive-weight "
    "--micro-slots --memory --plan --processes --sharding --data-workers --log-every --save-every"
)
JUDGED = "--evaluation-episodes"
WORKERS = "--num-workers --engine --ray-address"
FIGURE = "--out --task --threads"
EPISODES = "--checkpoint --seed --backend --max-steps --context-slots"
PREDICTION = f"{EPISODES} --policy-seed"
FLAGS = {
    "par_model.train codec": CODEC,
    "par_model.train probe": f"{STAGE} {PROBE}",
    "par_model.train latents": f"{STAGE} --data --leave-out",
    "par_model.train frames": f"{STAGE} {LEARNING}",
    "par_model.train pictures": f"{STAGE} {LEARNING} --prediction --drawing",
    "par_model.train forward": f"{STAGE} --data --leave-out --out --steps --learning-rate",
    "par_model.train policy": f"{STAGE} {LEARNING} {JUDGED} --ablation",
    "par_model.train all": f"{CODEC} {PROBE} {LEARNING} {JUDGED} --ablation",
    "par_model.train ablations": f"{STAGE} {LEARNING} {JUDGED} --only",
    "par_model.train recipe": f"--out --seed --plan --threads {WORKERS}",
    "par_model.evaluate": f"{WORKERS} --checkpoint --protocol --json --task --episodes "
    "--first-seed --max-steps --num-steps --sampler --spacing --backend --cells --policy-delay "
    "--seam-smoothness --delay-jitter --arm-file --context-slots --policy-seed --record-targets "
    "--streams",
    "par_model.calibrate": f"--checkpoint --episodes --out --backend {WORKERS}",
    "par_model.collect": f"{WORKERS} --task --num-demos --out --first-seed --noise-share "
    "--hold-steps --image-size --show --sheet --on-policy --expert --max-steps --disturbed-starts "
    "--views",
    "par_model.play_expert": "--task --episodes --first-seed --max-steps --disturbed --sigma "
    "--json",
    "par_model.episode_rate": f"{WORKERS} --task --checkpoint --backend --episodes --warm-up "
    "--model-workers",
    "par_model.export_trt": "--checkpoint --preset --out --precision --steps --graphs --stage "
    "--route --opset",
    "par_model.benchmark": "--checkpoint --preset --backend --part --num-steps --fill --device "
    "--threads --engines --runs --warm-up --json --compare --clips",
    "par_model.release": "--checkpoint --out --evaluation --graph --data --codec --note "
    "--sampling --context-slots --forward-model",
    "par_model.video_generation": "--out --instruction --image --num-latents --num-steps "
    "--num-sets --guidance --motion-flow --seed",
    "par_model.visualize prediction": f"{FIGURE} {PREDICTION} --slots",
    "par_model.visualize positions": f"{FIGURE} --evaluation",
    "par_model.visualize failures": f"{FIGURE} --evaluation --checkpoint --most-per-kind",
    "par_model.visualize tasks": f"{FIGURE} {EPISODES} --most-seeds --picture-size",
    "par_model.visualize attention": f"{FIGURE} {PREDICTION} --chunk",
    "par_model.visualize all": f"{FIGURE} {PREDICTION} --slots --evaluation --most-per-kind",
    "par_model.perception scenes": "--out --num-scenes --tasks --cameras --scenes-per-shard "
    f"{WORKERS}",
    "par_model.perception show": "--scenes --sheet",
    "par_model.perception cameras": f"--json --cameras --tasks --episodes --first-seed {WORKERS}",
    "par_model.perception readout": "--checkpoint --scenes --data --json --max-pictures "
    "--max-episodes --mlp-steps --seed --threads",
    "par_model.perception history": "--checkpoint --data --json --max-episodes --seed --threads",
    "par_model.perception imagine": "--checkpoint --scenes --json --slots --drawings --episodes "
    "--first-seed --max-steps --max-pictures --reader-steps --seed --threads",
    "par_model.describe": "--preset --num-steps --json --run-step --time-checkpoint --cache-drift "
    "--checkpoint --steps --transformer-depth",
    "par_model.convert_nova": "--out --form --resolution --num-slots --overflow "
    "--observation-mode --ablation --action-prediction --vae --instruction --dtype --seed",
    "par_model.import_lerobot": "--out --data",
    "par_ros replay": "--backend --checkpoint --guard-only --json",
    "par_ros to_dataset": "--out --mapping --image-size --instruction --max-gap",
    "par_ros limits": "--data-set --disturbed --task --episodes --first-seed --checkpoint "
    "--backend --commanded --limit-shares --json",
    "par_ros faults": "--inference --only --json --resume --table",
    "par_ros fuzz": "--num-chunks --arm --seed --num-processes --json --resume --without --only "
    "--mode --report-period --guard-path --findings",
    "par_ros soak": "--chunks --duration --checkpoint --inference --delay --loss --pace --backend "
    "--json",
    "par_ros same_targets": "--graph --direct --tolerance --json",
    "par_ros guard_latency": "--chunks --in-process --json",
}

CONTINUED = re.compile(r"\\\n[#\s]*")
# In code, up to what cannot belong to the command: its end, a remark, another command.
COMMAND = re.compile(
    r"""(?:python3?\ -m\ |\./par\ (?!python\b|setup\b|test\b|COMMAND\b)(?=\w))
        (?P<rest>(?:"[^"\n]*"|[^`\n;|")])*)""",
    re.VERBOSE,
)
REMARK = re.compile(r"\s{2,}(?!-).*|\s#\s.*|\s\(.*|[,:](\s.*)?$|(?<=\w)\.$")
# Placeholders where a number or a task belongs.
VALUES = {
    "H": "1.5",
    "N": "100",
    "task:=T": "task:=PushCube",
    "task:=<name>": "task:=PushCube",
}


def code_of(path: Path) -> str:
    """What a file shows as code, a command a line."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        text = ast.get_docstring(ast.parse(text)) or ""
    text = CONTINUED.sub("", text)
    if path.suffix == ".py":
        # Only whole lines are for a user to type.
        return "\n".join(line for line in text.splitlines() if re.match(r" {4}\S", line))
    if path.suffix == ".md":
        # A code span in running text goes on in the next line.
        return re.sub(r"(?<!`)`([^`]+)`(?!`)", lambda span: " ".join(span[0].split()), text)
    return text


def documented() -> Iterator[tuple[str, str]]:
    """(file, words after `python -m`) of every command line."""
    files = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]
    files += ROOT.glob("checkpoints/*/README.md")
    files += [path for name in ("config", "docker") for path in (ROOT / name).rglob("*.*")]
    files += [*ROOT.glob("par_model/*.py"), *ROOT.glob("par_ros/**/*.py")]
    for path in files:
        for found in COMMAND.finditer(code_of(path)):
            rest = REMARK.sub("", found["rest"]).strip()
            if found[0].startswith("./par "):
                rest = f"par_ros {rest}"
            if re.match(r"par_model\.[a-z_0-9]+ |par_ros [a-z]", rest):
                yield str(path.relative_to(ROOT)), rest


def words_of(rest: str) -> list[str]:
    words = shlex.split(re.sub(r"[\[\]]", "", rest))
    return [VALUES.get(word, word.removesuffix("...")) for word in words if word != "..."]


DOCUMENTED = sorted(set(documented()))


def refused(words: list[str]) -> str:
    """Why a command does not read `words`, without running it; empty: it reads them."""
    module, *rest = words
    if module == "par_ros":
        name, *rest = rest or ["--help"]
        commands = par_ros_main._commands()
        if name in commands:
            if rest != ["--help"]:
                texts = par_ros_main.split_assignments(name, rest)
                parse_arguments(commands[name].arguments_type, name, texts)
            return ""
        module = f"par_ros {name}"
        if name == "--help":
            return ""
    program = f"python -m {module}"
    try:
        parse(OPTIONS[module], program, None, rest)
    except SystemExit as end:
        return "refused" if end.code else ""
    return ""


@pytest.mark.parametrize(("file", "rest"), DOCUMENTED)
def test_a_documented_command_line_is_read(
    file: str,
    rest: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A page's folder, such as /reports of a container, is not this machine's.
    monkeypatch.setattr(command_line, "require_place", lambda path, is_folder: path)
    if not refused(words_of(rest)):
        return
    # Running text may name a command by one of its options alone; what a user types is whole.
    error = capsys.readouterr().err
    assert error.startswith(("error: missing: ", "error: one of these is needed: ")) or (
        "are needed to record" in error
    ), f"{file}: {rest}: {error}"
    is_told_to_a_user = file == "README.md" or file.startswith("docs/how_to/")
    assert not (is_told_to_a_user and " --" in rest), f"{file}: {rest}: {error}"


def test_the_command_lines_are_found() -> None:
    """Negative control: the pattern sees the README's, the pages', and joins lines."""
    found = {(file.split("/")[0], " ".join(rest.split()[:2])) for file, rest in DOCUMENTED}
    assert ("README.md", "par_ros sim") in found
    assert ("docs", "par_model.train ablations") in found
    assert ("docker", "par_model.export_trt --checkpoint") in found
    assert ("config", "par_model.train all") in found
    lines = [rest for _, rest in DOCUMENTED if "--latents runs/a/latents --out" in rest]
    assert [line.endswith("--steps 4000 --evaluation-episodes 0") for line in lines] == [True]


def help_of(program: str, capsys: pytest.CaptureFixture[str]) -> str:
    module, *subcommand = program.split()
    if module == "par_ros":
        module, subcommand = program, []
    with pytest.raises(SystemExit) as end:
        parse(OPTIONS[module], f"python -m {module}", None, [*subcommand, "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("program", FLAGS)
def test_every_flag_is_there_with_help_and_default(
    program: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The help of each flag says what it is, and what it is where it is left out."""
    text = re.sub(r"[│╭╮╰╯─]", " ", help_of(program, capsys))
    parts = re.split(r"\n {2}(?=--[a-z])", text)[1:]
    helps = {part.split()[0]: " ".join(part.split()[1:]) for part in parts}
    helps.pop("--help", None)
    assert set(helps) == set(FLAGS[program].split())
    explanations = []
    for flag, words in helps.items():
        explained = re.fullmatch(r"(.*)\((default: \S.*|required|repeatable)\)\W*.*", words)
        assert explained is not None, f"{flag} {words}"
        # Without the names of values: those in braces, in capitals, or with bars between.
        explanation = re.sub(r"\{.*?\}|\S+\|\S+", "", explained[1])
        assert re.search(r"\b[a-z]{2,}", explanation), f"{flag} has no help: {words}"
        explanations.append(re.sub(r"^\W*([A-Z]+\W+)*", "", explanation))
    # A field without a comment has that of the field above it.
    assert len(set(explanations)) == len(explanations)


def test_all_commands_are_covered() -> None:
    for module in OPTIONS:
        names = SUBCOMMANDS.get(module, ())
        assert {f"{module} {name}" for name in names} or {module} <= set(FLAGS)
    assert set(OPTIONS) == {
        name if name.startswith("par_ros") else name.split()[0] for name in FLAGS
    }
