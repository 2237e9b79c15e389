# SPDX-License-Identifier: Apache-2.0
"""What may not be in the tree: pickle, large files, names of machines; and README's fixed parts."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
# The one foreign format that has to be read; there with weights_only=True.
MAY_CALL_TORCH_LOAD = {"par_model/nova_files.py"}
REGISTRY = re.compile(r"https?://[^\s]*(debian|pypi|pythonh|npm|ubuntu)", re.IGNORECASE)
SKIPPED_FOLDERS = {".git", ".venv", "build", "install", "log", "runs", "reports", "datasets"}


def tracked_files() -> list[Path]:
    """Files of the repository; without git (a source archive) all but the ignored folders."""
    result = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    if result.returncode == 0 and result.stdout:
        return [
            ROOT / name for name in result.stdout.split("\0") if name and (ROOT / name).exists()
        ]
    return [
        path
        for path in ROOT.rglob("*")
        if path.is_file() and not SKIPPED_FOLDERS & set(path.relative_to(ROOT).parts)
    ]


def python_calls(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]


def test_nothing_is_unpickled() -> None:
    """No pickle import anywhere; torch.load only where NOVA's weights come in, weights_only."""
    for path in tracked_files():
        if path.suffix != ".py":
            continue
        name = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not {"pickle", "dill", "joblib"} & {alias.name for alias in node.names}, name
            elif isinstance(node, ast.ImportFrom):
                assert node.module not in {"pickle", "dill", "joblib"}, name
        for call in python_calls(path):
            if ast.unparse(call.func) == "torch.load":
                assert name in MAY_CALL_TORCH_LOAD, f"{name}:{call.lineno} calls torch.load"
                keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
                assert keywords.get("weights_only") == "True", f"{name}:{call.lineno}"
            for keyword in call.keywords:
                assert keyword.arg != "allow_pickle" or ast.unparse(keyword.value) == "False", name


def test_no_registry_or_home_folder_is_named() -> None:
    """A clone works with whatever mirror its machine uses, in whatever folder."""
    for path in tracked_files():
        if path.suffix in {".safetensors", ".mp4", ".png", ".jpg", ".parquet", ".npz", ".onnx"}:
            continue
        text = path.read_text(encoding="utf-8")
        match = REGISTRY.search(text)
        assert match is None, f"{path.relative_to(ROOT)} names a registry: {match}"
        for line in text.splitlines():
            assert not re.search(r"/(home|root|Users)/\w+", line), f"{path.name}: {line.strip()}"


def test_no_file_is_large() -> None:
    """16 MiB a file, 64 MiB for all checkpoints."""
    sizes = {path.relative_to(ROOT).as_posix(): path.stat().st_size for path in tracked_files()}
    assert "par" in sizes
    assert {name: size for name, size in sizes.items() if size > 16 * MIB} == {}
    assert sum(size for name, size in sizes.items() if name.startswith("checkpoints/")) <= 64 * MIB


def test_python_files_name_their_licence() -> None:
    for path in tracked_files():
        if path.suffix == ".py":
            assert path.read_text().startswith("# SPDX-License-Identifier: Apache-2.0"), path


def test_readme_shows_both_commands_and_demands_the_hardware_stop() -> None:
    text = (ROOT / "README.md").read_text()
    assert re.search(r"^\./par sim task:=PushCube", text, re.MULTILINE)
    assert re.search(r"^\./par test$", text, re.MULTILINE)
    assert "hardware emergency stop" in text


def test_readme_table_is_the_one_in_topics() -> None:
    topics = pytest.importorskip("par_ros.topics")
    text = (ROOT / "README.md").read_text()
    begin, end = "<!-- topics.py -->\n", "<!-- /topics.py -->"
    assert begin in text and end in text, "README.md has lost the markers of the topic table"
    table = text.split(begin)[1].split(end)[0]
    assert table.strip() == topics.markdown_table().strip(), (
        "README's table differs from topics.py: print(par_ros.topics.markdown_table()) gives it"
    )


def test_readme_links_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text()
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", text)
    assert links
    for link in links:
        assert (ROOT / link).exists(), f"README.md links to {link}, which does not exist"
