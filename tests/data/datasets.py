"""Small datasets for the tests: contents that tell episode and frame, and a v2.1 folder built by hand."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sana_wm.data import LeRobotWriter

GOLDEN = Path(__file__).parent / "lerobot_v30_golden"

FEATURES: dict[str, dict[str, Any]] = {
    "observation.images.top": {"dtype": "video", "shape": (16, 24, 3)},
    "observation.state": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
    "action": {"dtype": "float32", "shape": (2,)},
    "next.reward": {"dtype": "float32", "shape": (1,)},
    "next.done": {"dtype": "bool", "shape": (1,)},
}


def frame_level(episode: int, frame: int) -> int:
    """The grey level that marks a frame: neighbours in episode and time are far apart."""
    return (37 * episode + 11 * frame) % 200 + 20


def marked_frames(episode: int, length: int, height: int = 16, width: int = 24) -> np.ndarray:
    levels = np.array([frame_level(episode, t) for t in range(length)], dtype=np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (length, height, width, 3)).copy()


def make_episode(episode: int, length: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(episode)
    return {
        "observation.images.top": marked_frames(episode, length),
        "observation.state": rng.normal(size=(length, 2)).astype(np.float32),
        "action": rng.normal(size=(length, 2)).astype(np.float32),
        "next.reward": np.arange(length, dtype=np.float32),
        "next.done": np.arange(length) == length - 1,
    }


def write_dataset(root: Path, lengths: tuple[int, ...] = (5, 7, 4, 6), flush_every: int = 2) -> Path:
    """A v3.0 dataset through the writer: two episodes a file."""
    with LeRobotWriter(root, 10, FEATURES, flush_every=flush_every) as writer:
        for episode, length in enumerate(lengths):
            writer.add_episode(make_episode(episode, length), f"task {episode % 2}", {"seed": episode})
    return root


def encode_video(path: Path, frames: np.ndarray, fps: Fraction, codec: str = "libx264", **options: str) -> None:
    """Frames into an mp4 straight through PyAV, independent of the writer under test."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=fps, options={"crf": "10", **options})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv444p"
        for number, pixels in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            picture.pts, picture.time_base = number, 1 / fps
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def build_v21(root: Path, lengths: tuple[int, ...] = (5, 7, 4), chunks_size: int = 2) -> Path:
    """A v2.1 dataset written file by file, as its format says."""
    camera = "observation.images.top"
    features = {
        camera: {"dtype": "video", "shape": [16, 24, 3], "names": ["height", "width", "channel"]},
        "observation.state": {"dtype": "float32", "shape": [2], "names": {"motors": ["x", "y"]}},
        "action": {"dtype": "float32", "shape": [2], "names": None},
    }
    first = 0
    episodes, stats = [], []
    for index, length in enumerate(lengths):
        names = f"chunk-{index // chunks_size:03d}", f"episode_{index:06d}"
        data = make_episode(index, length)
        path = root / "data" / names[0] / f"{names[1]}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = {key: pa.array(list(data[key]), pa.list_(pa.float32())) for key in ("observation.state", "action")}
        columns |= {
            "timestamp": pa.array(np.arange(length, dtype=np.float32) / 10),
            "frame_index": pa.array(np.arange(length)),
            "episode_index": pa.array(np.full(length, index)),
            "index": pa.array(first + np.arange(length)),
            "task_index": pa.array(np.full(length, index % 2)),
        }
        pq.write_table(pa.table(columns), path)
        encode_video(root / "videos" / names[0] / camera / f"{names[1]}.mp4", data[camera], Fraction(10))
        episodes.append({"episode_index": index, "tasks": [f"task {index % 2}"], "length": length})
        state = data["observation.state"].astype(np.float64)
        entry = {name: getattr(state, name)(axis=0).tolist() for name in ("min", "max", "mean", "std")}
        stats.append({"episode_index": index, "stats": {"observation.state": {**entry, "count": [length]}}})
        first += length
    info = {
        "codebase_version": "v2.1",
        "robot_type": "toy",
        "total_episodes": len(lengths),
        "total_frames": first,
        "total_tasks": 2,
        "total_videos": len(lengths),
        "total_chunks": -(-len(lengths) // chunks_size),
        "chunks_size": chunks_size,
        "fps": 10,
        "splits": {"train": f"0:{len(lengths)}"},
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": features,
    }
    meta = root / "meta"
    meta.mkdir()
    (meta / "info.json").write_text(json.dumps(info))
    tasks = [{"task_index": index, "task": f"task {index}"} for index in range(2)]
    for name, rows in (("tasks", tasks), ("episodes", episodes), ("episodes_stats", stats)):
        (meta / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def assert_marked(frames: np.ndarray, episode: int) -> None:
    """Every frame shows the level of its own episode and time (levels of neighbours differ by 11 and 37)."""
    expected = [frame_level(episode, t) for t in range(len(frames))]
    np.testing.assert_allclose(frames.reshape(len(frames), -1).mean(axis=1), expected, atol=3)
