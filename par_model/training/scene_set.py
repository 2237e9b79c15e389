# SPDX-License-Identifier: Apache-2.0
"""Pictures of scenes with the positions of what they show, on disk.

Shapes: N pictures; H, W pixels; J joints.

A folder holds one task's pictures: settings.json and shards of SCENES_PER_SHARD scenes each,
`shard_00000.parquet` and so on. A shard appears whole or not at all, and is a function of the
settings and its number, so a killed rendering goes on where it stopped and a finished one can be
extended. Parquet (pyarrow, as the LeRobot data sets) with each picture as lossless WebP (Pillow):
half of the raw bytes (25 kB at 128 x 128 pixels; PNG 33), 2 ms to write and 0.3 to read, and
readable by any data tool. A video codec is smaller only where neighbouring pictures are alike.
"""

import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from par_model.interface import FloatArray, ImageArray
from par_model.json_file import read_object

SCENES_PER_SHARD = 200
# The things whose positions are stored; a task has some of them.
THINGS = ("gripper", "cube", "cube_b", "goal")
# Below so many pixels a thing counts as hidden.
VISIBLE_PIXELS = 20
# One scene in so many is kept from every training, to judge what was learnt.
HELD_OUT_EVERY = 5
_SETTINGS = "settings.json"
# Pictures that are read at once.
_PART = 50
# Higher ones take three times as long for one per cent.
_WEBP_METHOD, _WEBP_EFFORT = 2, 20

_POINT = pa.list_(pa.float32(), 3)
_SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("seed", pa.int64()),
        ("scene", pa.int64()),
        ("camera", pa.string()),
        ("hand", pa.string()),
        ("cube_state", pa.string()),
        ("image", pa.binary()),
        ("joints", pa.list_(pa.float32(), 8)),
        ("gripper_width_m", pa.float32()),
        *((f"{name}_m", _POINT) for name in THINGS),
        *((f"{name}_pixels", pa.int32()) for name in THINGS if name != "gripper"),
    ]
)


@dataclass(frozen=True)
class SceneRow:
    """One picture of one scene.

    Attributes:
        task, seed, scene: the task's name, the reset's seed, the scene's number.
        camera: the view's name.
        hand, cube_state: how the scene was put together (random_scenes.py).
        image: uint8 [H, W, 3], RGB.
        joints: float [8], rad and m, as a policy measures them.
        positions_m: float [3] by name, the task's own of THINGS, in the robot base's frame.
        pixels: how many show each thing; of the gripper none are counted.
    """

    task: str
    seed: int
    scene: int
    camera: str
    hand: str
    cube_state: str
    image: ImageArray
    joints: FloatArray
    positions_m: dict[str, FloatArray]
    pixels: dict[str, int]


@dataclass(frozen=True)
class SceneTable:
    """Everything but the pictures of N rows.

    Attributes:
        task: the task's name.
        scenes: int64 [N], the scenes' numbers.
        cameras, hands, cube_states: N texts each.
        joints: float32 [N, 8].
        positions_m: float32 [N, 3] by name of THINGS, robot base's frame; NaN where the task has no
            such thing.
        pixels: int32 [N] by name, 0 where the task has no such thing.
    """

    task: str
    scenes: npt.NDArray[np.int64]
    cameras: npt.NDArray[np.str_]
    hands: npt.NDArray[np.str_]
    cube_states: npt.NDArray[np.str_]
    joints: npt.NDArray[np.float32]
    positions_m: dict[str, npt.NDArray[np.float32]]
    pixels: dict[str, npt.NDArray[np.int32]]

    def is_held_out(self) -> npt.NDArray[np.bool_]:
        """Which rows no training reads, bool [N]; a choice by the scenes' numbers."""
        return self.scenes % HELD_OUT_EVERY == HELD_OUT_EVERY - 1

    def by_scene(self, views: tuple[str, ...], where: Path) -> "SceneTable":
        """One row a scene of a set that shows each through all `views`, one after another; of each
        thing the pixels of the view that shows most. One view may have any name.

        Raises ValueError, naming the set `where`, for a set of other cameras.
        """
        count = len(views)
        found = tuple(self.cameras[:count])
        if len(set(self.cameras)) != count or (count > 1 and found != views):
            raise ValueError(
                f"{where} holds pictures of the cameras {', '.join(sorted(set(self.cameras)))}; "
                f"the policy has the views {', '.join(views)}: render a set with `perception "
                f"scenes --cameras {' '.join(views)}`."
            )
        num_scenes = len(self.scenes) // count
        first = slice(0, num_scenes * count, count)
        return SceneTable(
            task=self.task,
            scenes=self.scenes[first],
            cameras=self.cameras[first],
            hands=self.hands[first],
            cube_states=self.cube_states[first],
            joints=self.joints[first],
            positions_m={name: places[first] for name, places in self.positions_m.items()},
            pixels={
                name: pixels[: num_scenes * count].reshape(num_scenes, count).max(axis=1)
                for name, pixels in self.pixels.items()
            },
        )

    def is_visible(self, name: str) -> npt.NDArray[np.bool_]:
        """Which rows show the thing, bool [N]; the gripper counts as seen, its joints are known."""
        known = ~np.isnan(self.positions_m[name][:, 0])
        return known if name == "gripper" else known & (self.pixels[name] >= VISIBLE_PIXELS)


def start_scene_set(folder: Path, settings: dict[str, Any]) -> None:
    """Begin or continue the set in `folder`. Raises ValueError if it has other settings."""
    path = folder / _SETTINGS
    plain = json.loads(json.dumps(settings))
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _replace(path, (json.dumps(plain, indent=2) + "\n").encode())
        return
    stored = read_object(path, "render into another --out")
    if stored != plain:
        different = sorted(name for name in plain if stored.get(name) != plain[name])
        raise ValueError(
            f"{folder} holds scenes with other settings ({', '.join(different)}); use the same "
            "ones to continue, or another --out."
        )


def shard_path(folder: Path, shard: int) -> Path:
    return folder / f"shard_{shard:05d}.parquet"


def write_shard(folder: Path, shard: int, rows: Sequence[SceneRow]) -> None:
    """Write one shard; a kill at any moment leaves no half of it."""
    store_shard(folder, shard, encoded_shard(rows))


def store_shard(folder: Path, shard: int, content: bytes) -> None:
    """Write what `encoded_shard` made."""
    _replace(shard_path(folder, shard), content)


def encoded_shard(rows: Sequence[SceneRow]) -> bytes:
    """A shard's file."""
    table = pa.Table.from_pylist([_stored(row) for row in rows], _SCHEMA)
    buffer = io.BytesIO()
    # The pictures are compressed already; zstd makes little of the rest.
    pq.write_table(table, buffer, compression="zstd", row_group_size=_PART)
    return buffer.getvalue()


def _stored(row: SceneRow) -> dict[str, Any]:
    picture = io.BytesIO()
    Image.fromarray(row.image).save(
        picture, "WEBP", lossless=True, method=_WEBP_METHOD, quality=_WEBP_EFFORT
    )
    values: dict[str, Any] = {
        "task": row.task,
        "seed": row.seed,
        "scene": row.scene,
        "camera": row.camera,
        "hand": row.hand,
        "cube_state": row.cube_state,
        "image": picture.getvalue(),
        "joints": row.joints.astype(np.float32),
        "gripper_width_m": 2.0 * float(row.joints[7]),
    }
    # NaN, because Parquet keeps no empty place in a column of lists of equal length.
    missing = np.full(3, np.nan, dtype=np.float32)
    for name in THINGS:
        values[f"{name}_m"] = row.positions_m.get(name, missing).astype(np.float32)
    return values | {f"{name}_pixels": count for name, count in row.pixels.items()}


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.writing")
    temporary.write_bytes(data)
    os.replace(temporary, path)


class SceneSet:
    """The pictures in one folder, as far as they are rendered, in the order of their scenes.

    Raises ValueError for a folder without pictures.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards = sorted(folder.glob("shard_?????.parquet"))
        if not self.shards:
            raise ValueError(
                f"{folder} holds no scenes; run `python -m par_model.perception scenes` first, and "
                "name a task's folder."
            )
        self.settings = read_object(folder / _SETTINGS, "render the scenes again")
        self.task = str(self.settings["task"])

    @property
    def robot_base_m(self) -> FloatArray:
        """Where the robot's base stands in the simulator's world, float64 [3]."""
        return np.array(self.settings["robot_base_m"], dtype=np.float64)

    def read_table(self, max_pictures: int | None = None) -> SceneTable:
        """All columns but the pictures, of the first `max_pictures` rows."""
        columns = [name for name in _SCHEMA.names if name != "image"]
        parts, num_rows = [], 0
        for shard in self.shards:
            if max_pictures is not None and num_rows >= max_pictures:
                break
            parts.append(pq.read_table(shard, columns=columns))
            num_rows += parts[-1].num_rows
        return _scene_table(self.task, pa.concat_tables(parts).slice(0, max_pictures))

    def pictures(self, max_pictures: int | None = None) -> Iterator[ImageArray]:
        """uint8 [n, H, W, 3] of part after part, in the table's order; n is 50 or less."""
        remaining = max_pictures
        for shard in range(len(self.shards)):
            for part in self.shard_pictures(shard):
                if remaining is not None:
                    part = part[:remaining]
                    remaining -= len(part)
                yield part
                if remaining == 0:
                    return

    def shard_pictures(self, shard: int) -> Iterator[ImageArray]:
        """uint8 [n, H, W, 3] of part after part of one shard; n is 50 or less."""
        with pq.ParquetFile(self.shards[shard]) as file:
            for batch in file.iter_batches(batch_size=_PART, columns=["image"]):
                yield np.stack([_decoded(data) for data in batch.column(0).to_pylist()])


def _decoded(data: bytes) -> ImageArray:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"), dtype=np.uint8)


def _scene_table(task: str, table: pa.Table) -> SceneTable:
    def texts(name: str) -> npt.NDArray[np.str_]:
        return np.array(table[name].to_pylist(), dtype=np.str_)

    def points(name: str, width: int) -> npt.NDArray[np.float32]:
        return np.array(table[name].to_pylist(), dtype=np.float32).reshape(-1, width)

    return SceneTable(
        task=task,
        scenes=np.array(table["scene"].to_pylist(), dtype=np.int64),
        cameras=texts("camera"),
        hands=texts("hand"),
        cube_states=texts("cube_state"),
        joints=points("joints", 8),
        positions_m={name: points(f"{name}_m", 3) for name in THINGS},
        pixels={
            name: np.array([count or 0 for count in table[f"{name}_pixels"].to_pylist()], np.int32)
            for name in THINGS
            if name != "gripper"
        },
    )
