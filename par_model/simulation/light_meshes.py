# SPDX-License-Identifier: Apache-2.0
"""A Panda with a tenth of the triangles, made once from the installed ManiSkill assets.

lavapipe draws ManiSkill's Panda (136,000 triangles) at 30 frames/s and a tenth of them at about
145 (measured at 128x128 on one CPU core). Only what is drawn changes: collision meshes are
copied unchanged, so the physics is the same. The meshes go to a cache folder and are never shipped.
"""

import hashlib
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import trimesh

from par_model.simulation.made_once import made_once

# Part of the triangles that is removed, and the size below which a mesh is left as it is: the
# fingers are small already, and a policy must see where they are.
REDUCTION = 0.9
SMALL_MESH_TRIANGLES = 500
# Edges sharper than this stay sharp in the shading.
SMOOTH_ANGLE_RAD = 0.6
# Raise when the recipe changes, so that old caches are not used.
_RECIPE_VERSION = 3


def light_urdf(urdf: Path) -> Path:
    """Path of a copy of `urdf` with light visual meshes; made on the first call (about 3 s)."""
    folder = made_once(f"light_meshes_{_fingerprint(urdf)}", lambda made: _build(urdf, made))
    return folder / urdf.name


def _fingerprint(urdf: Path) -> str:
    digest = hashlib.sha256(f"{_RECIPE_VERSION} {REDUCTION} {SMOOTH_ANGLE_RAD}".encode())
    digest.update(urdf.read_bytes())
    for name in sorted({mesh for mesh, _ in _mesh_names(urdf)}):
        digest.update(f"{name} {(urdf.parent / name).stat().st_size}".encode())
    return digest.hexdigest()[:16]


def _mesh_names(urdf: Path) -> list[tuple[str, bool]]:
    """(file name relative to the URDF, whether it is a visual mesh) of each mesh."""
    names = []
    for kind in ("visual", "collision"):
        for element in ElementTree.parse(urdf).getroot().iter(kind):
            names += [(mesh.attrib["filename"], kind == "visual") for mesh in element.iter("mesh")]
    return names


def _build(urdf: Path, folder: Path) -> None:
    for name, is_visual in sorted(set(_mesh_names(urdf))):
        source = urdf.parent / name
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if is_visual:
            target.write_bytes(_decimated(source))
        else:
            for path in source.parent.glob(source.name + "*"):
                shutil.copyfile(path, target.parent / path.name)
    shutil.copyfile(urdf.with_suffix(".srdf"), (folder / urdf.name).with_suffix(".srdf"))
    shutil.copyfile(urdf, folder / urdf.name)


def _decimated(path: Path) -> bytes:
    scene = trimesh.load_scene(path)
    light = trimesh.Scene()
    # In the file's order and under names of our own: trimesh gives the nodes random names, and a
    # pixel that two meshes share has the colour of the one drawn first.
    for index, (name, mesh) in enumerate(scene.geometry.items()):
        for node in scene.graph.geometry_nodes[name]:
            own_name = f"{path.stem}_{index}"
            light.add_geometry(
                _decimated_mesh(mesh),
                node_name=own_name,
                geom_name=own_name,
                transform=scene.graph[node][0],
            )
    data = light.export(file_type="glb", include_normals=True)
    assert isinstance(data, bytes)
    return data


def _decimated_mesh(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    material = mesh.visual.material
    welded = trimesh.Trimesh(vertices=mesh.vertices, faces=mesh.faces, process=False)
    welded.merge_vertices()
    if len(welded.faces) > SMALL_MESH_TRIANGLES:
        welded = welded.simplify_quadric_decimation(percent=REDUCTION)
    shaded = trimesh.graph.smooth_shade(welded, angle=SMOOTH_ANGLE_RAD)
    # SAPIEN reads the material's colour; a UV of zeros is what a glTF without texture has.
    shaded.visual = trimesh.visual.TextureVisuals(
        uv=np.zeros((len(shaded.vertices), 2)), material=material
    )
    return shaded
