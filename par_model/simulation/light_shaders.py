# SPDX-License-Identifier: Apache-2.0
"""SAPIEN's shader "minimal" without a table that this package's pictures do not need.

The table is for the light of an environment map, and the scenes have none: it is multiplied by
zero. SAPIEN computes it before a process's first picture, which takes 8 s of a CPU core with
lavapipe. The shader goes to a cache folder, made from the installed SAPIEN, and is never shipped;
of a SAPIEN whose shader is another one the stock shader is used. Pictures are the same to the bit.
"""

import contextlib
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from par_model.simulation.made_once import made_once

_SHADER = "minimal"
# It includes files of the second one.
_FOLDERS = (_SHADER, "common")
# file -> (what it has once, what is put there instead)
_CHANGES = {
    "composite0.frag": (("layout(set = 2, binding = 8) uniform sampler2D samplerBRDFLUT;\n", ""),),
    "gbuffer.frag": (
        ("layout(set = 3, binding = 8) uniform sampler2D samplerBRDFLUT;\n", ""),
        ("texture(samplerBRDFLUT, vec2(roughness, dotNV)).xy", "vec2(1.0, 0.0)"),
    ),
}


@contextlib.contextmanager
def light_shaders() -> Iterator[None]:
    """Inside, cameras that ask SAPIEN for "minimal" get the light shader."""
    import sapien

    folder = light_shader(Path(sapien.__file__).parent / "vulkan_shader")
    set_folder = sapien.render.set_camera_shader_dir

    def set_light_folder(name: str) -> None:
        set_folder(str(folder) if name == _SHADER else name)

    if folder is not None:
        sapien.render.set_camera_shader_dir = set_light_folder
    try:
        yield
    finally:
        sapien.render.set_camera_shader_dir = set_folder


def light_shader(shaders: Path) -> Path | None:
    """The light shader's folder, made from SAPIEN's folder `shaders`; None where that has another
    shader."""
    changed = {}
    for name, changes in _CHANGES.items():
        path = shaders / _SHADER / name
        if not path.is_file():
            return None
        text = path.read_text(encoding="utf-8")
        for old, new in changes:
            if text.count(old) != 1:
                return None
            text = text.replace(old, new)
        if "samplerBRDFLUT" in text:
            return None
        changed[name] = text
    digest = hashlib.sha256(repr(changed).encode())
    for folder in _FOLDERS:
        for path in sorted((shaders / folder).iterdir()):
            digest.update(path.read_bytes())

    def build(folder: Path) -> None:
        for name in _FOLDERS:
            shutil.copytree(shaders / name, folder / name)
        for name, text in changed.items():
            (folder / _SHADER / name).write_text(text, encoding="utf-8")

    return made_once(f"light_shaders_{digest.hexdigest()[:16]}", build) / _SHADER
