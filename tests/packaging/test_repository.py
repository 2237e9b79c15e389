# SPDX-License-Identifier: Apache-2.0
"""What may not be in the tree: pickle, large files, names of machines; and README's fixed parts."""

import ast
import dataclasses
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
# The one foreign format that has to be read; there with weights_only=True.
MAY_CALL_TORCH_LOAD = {"par_model/nova_files.py"}
REGISTRY = re.compile(r"https?://[^\s]*(debian|pypi|pythonh|npm|ubuntu)", re.IGNORECASE)
BINARY_SUFFIXES = {".safetensors", ".mp4", ".png", ".jpg", ".webp", ".parquet", ".npz", ".onnx"}
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
        if path.suffix in BINARY_SUFFIXES:
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


def test_readme_is_short_and_has_a_moving_picture() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 130
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+\.webp)\)", text)
    assert pictures
    for picture in pictures:
        assert (ROOT / picture).stat().st_size < 2_000_000


def test_generated_tables_of_the_reference_are_up_to_date() -> None:
    reference = pytest.importorskip("par_ros.reference_pages")
    for page in reference.PAGES:
        text = (ROOT / "docs" / "reference" / page).read_text()
        assert text == reference.updated(text, page), (
            f"{page} is out of date: python -m par_ros.reference_pages docs/reference writes it"
        )


def test_a_page_without_markers_is_refused() -> None:
    reference = pytest.importorskip("par_ros.reference_pages")
    with pytest.raises(ValueError, match=r"topics.md must hold the lines <!-- topics.py -->"):
        reference.updated("no table here", "topics.md")


def test_a_folder_without_the_pages_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = pytest.importorskip("par_ros.reference_pages")
    assert reference.main([str(tmp_path / "none")]) == 1
    error = capsys.readouterr().err
    assert "is not a file; give the folder docs/reference." in error
    assert error.count("\n") == 1


def test_every_word_of_the_guard_has_its_meaning() -> None:
    """What guard_state calls holds and faults, by the calls in the guard's code."""
    code = "".join(path.read_text() for path in (ROOT / "par_ros/control").glob("*.py"))
    words = set(re.findall(r'(?:\bFault\(|\.hold\(|_hold_chunk\(chunk, )\s*"(\w+)"', code))
    assert {"late", "limits", "deadman", "two_sources", "tracking_error"} <= words
    page = (ROOT / "docs/reference/messages.md").read_text()
    section = page.partition("### Words of the guard")[2].partition("\n## ")[0]
    assert words - set(re.findall(r"`(\w+)`", section)) == set()


def pages() -> list[Path]:
    """README and all pages of docs, but those in folders of results and figures."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def anchors(page: Path) -> set[str]:
    """The names by which GitHub links to headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://)([^)\s]+)\)", page.read_text())
    for link in links:
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name} links to {link}, which does not exist"
        if anchor:
            assert anchor in anchors(target), f"{page.name} links to {link}: no such heading"


def test_every_page_can_be_found_from_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {
        (index.parent / link).resolve() for link in re.findall(r"\]\(([^)#]+)\)", index.read_text())
    }
    assert {page for page in pages()[1:] if page != index} - linked == set()


def test_commands_in_the_docs_exist() -> None:
    """Each `./par X` and `python -m par_...` that a page names."""
    main = pytest.importorskip("par_ros.__main__")
    known = {
        *main._commands(),
        *main.PROOFS,
        main.REPLAY,
        main.TO_DATASET,
        "test",
        "setup",
        "python",
        "help",
        "X",
    }
    for page in pages():
        text = page.read_text()
        for word in re.findall(r"\./par ([a-z]\w*)", text):
            assert word in known, f"{page.name} names ./par {word}"
        for module in re.findall(r"-m (par_(?:model|ros)\.\w+)", text):
            path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
            assert path.exists() or module.endswith(".X"), f"{page.name} names {module}"


def test_launch_arguments_in_the_docs_exist() -> None:
    """Each name:= behind `./par sim`, `real_arm` or `loopback`, on the same line."""
    graph = pytest.importorskip("par_ros.node_graph")
    num_names = 0
    for page in pages():
        for kind, rest in re.findall(r"\./par (sim|real_arm|loopback) ([^`\n]*)", page.read_text()):
            known = {field.name for field in dataclasses.fields(graph.GRAPHS[kind].arguments_type)}
            names = re.findall(r"(\w+):=", rest)
            num_names += len(names)
            assert set(names) <= known, f"{page.name}: {kind} has no {set(names) - known}"
    assert num_names > 20
