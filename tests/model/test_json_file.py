# SPDX-License-Identifier: Apache-2.0
"""JSON from others is an object, or one sentence; names of files never lead out of their folder."""

import re

import pytest

from par_model.json_file import MAX_BYTES, MAX_DEPTH, file_in, read_object


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is not valid JSON"),
        (b'{"a": 1', "is not valid JSON"),
        (b"\xff\xfe\x00{", "is not valid JSON"),
        (b'{"a": "\xe9"}', "is not valid JSON"),
        (b"[]", "must hold a JSON object, got a list"),
        (b"null", "must hold a JSON object, got null"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not valid JSON"),
        (b"[" * 100_000, f"deeper than {MAX_DEPTH}"),
        (b'{"a": ' * 60 + b"1" + b"}" * 60, f"deeper than {MAX_DEPTH}"),
        (b'"' + b"a" * MAX_BYTES + b'"', "is larger than 16 MiB"),
    ],
    ids=lambda value: repr(value[:12]),
)
def test_what_is_no_object_is_one_sentence(tmp_path, content, sentence):
    path = tmp_path / "some.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(sentence)) as caught:
        read_object(path, "copy it anew")
    assert "some.json" in str(caught.value)
    assert str(caught.value).endswith("; copy it anew.")


def test_a_folder_and_a_missing_file_are_one_sentence(tmp_path):
    for name in (".", "nowhere.json"):
        with pytest.raises(ValueError, match="cannot be read: "):
            read_object(tmp_path / name, "copy it anew")


@pytest.mark.parametrize(
    "name", ["../x", "/etc/hosts", "a/b", "..", ".", "", "a\\b", "a\0b", "a\n", "\ud800", "x" * 300]
)
def test_only_plain_names_are_files_of_a_folder(tmp_path, name):
    with pytest.raises(ValueError, match="not a file of the folder"):
        file_in(tmp_path, name, "index.json")


def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_not(tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for place in (tmp_path, folder):
        (place / "weights").write_text("w")
    (folder / "inside").symlink_to("weights")
    (folder / "outside").symlink_to("../weights")
    assert file_in(folder, "inside", "index.json").read_text() == "w"
    with pytest.raises(ValueError, match="symbolic link out of its folder"):
        file_in(folder, "outside", "index.json")
    linked = tmp_path / "linked"
    linked.symlink_to(folder)
    assert file_in(linked, "weights", "index.json").read_text() == "w"
