"""Every kind of damage is one clear error that names the file and the episode."""

import json
from fractions import Fraction

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sana_wm.data import DatasetError, LeRobotDataset
from tests.data.datasets import build_v21, encode_video, marked_frames, write_dataset

CAMERA = "observation.images.top"
LENGTHS = (5, 7, 4, 6)  # two episodes a file
VIDEO = f"videos/{CAMERA}/chunk-000/file-001.mp4"
DATA = "data/chunk-000/file-001.parquet"
EPISODES = "meta/episodes/chunk-000/file-001.parquet"


@pytest.fixture
def root(tmp_path):
    return write_dataset(tmp_path / "set", LENGTHS)


def problems_of(root) -> list[str]:
    with pytest.raises(DatasetError) as caught:
        LeRobotDataset(root).validate()
    assert all(problem in str(caught.value) for problem in caught.value.problems)
    return caught.value.problems


def assert_single(problems: list[str], *parts: str) -> None:
    assert len(problems) == 1, problems
    for part in parts:
        assert part in problems[0]


def rewrite(path, change):
    """Apply ``change`` to the rows of a parquet file, a row group for each episode again."""
    table = pq.read_table(path)
    rows = change(table.to_pylist())
    pq.write_table(pa.Table.from_pylist(rows, table.schema), path)


def test_sound_datasets_pass(root, tmp_path):
    LeRobotDataset(root).validate()
    LeRobotDataset(build_v21(tmp_path / "v21")).validate()


def test_missing_files(root):
    (root / VIDEO).unlink()
    (root / DATA).unlink()
    problems = problems_of(root)
    assert len(problems) == 2
    assert DATA in problems[0] and "missing" in problems[0] and "(episodes 2, 3)" in problems[0]
    assert VIDEO in problems[1] and "missing" in problems[1] and "(episodes 2, 3)" in problems[1]
    with pytest.raises(DatasetError, match=r"file-001.*episode 2"):
        LeRobotDataset(root).episode(2)
    LeRobotDataset(root).episode(1)  # the sound ones can still be read


def packets_of(path) -> list[tuple[int, int]]:
    """(place, size) in the file of every coded picture, in the order of decoding."""
    with av.open(str(path)) as container:
        return [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]


def test_video_cut_off(root):
    path = root / VIDEO
    path.write_bytes(path.read_bytes()[:-200])  # its index stands at the end
    assert_single(problems_of(root), VIDEO, "not a readable video", "(episodes 2, 3)")


def test_video_cut_off_with_its_index_in_front(root):
    path = root / VIDEO
    with av.open(str(path)) as source, av.open(str(root / "fast.mp4"), "w", options={"movflags": "faststart"}) as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    place, size = packets_of(root / "fast.mp4")[6]
    path.write_bytes((root / "fast.mp4").read_bytes()[: place + size // 2])
    assert_single(problems_of(root), VIDEO, "frames 4 to 9 are needed", "(episode 3)")


def test_video_with_a_hole(root):
    path = root / VIDEO
    contents = bytearray(path.read_bytes())
    place, size = packets_of(path)[6]
    contents[place + 5 : place + size] = bytes(size - 5)
    path.write_bytes(contents)
    assert_single(problems_of(root), VIDEO, "frames 4 to 9 do not decode", "(episode 3)")


def test_video_with_too_few_frames(root):
    encode_video(root / VIDEO, marked_frames(2, 8), Fraction(10))
    assert_single(problems_of(root), VIDEO, "frames 4 to 9 are needed", "holds 8 frames", "(episode 3)")


def test_video_of_another_size(root):
    encode_video(root / VIDEO, marked_frames(2, 10, 24, 16), Fraction(10))
    assert_single(problems_of(root), VIDEO, "(24, 16)", "(16, 24)", "(episodes 2, 3)")


def test_file_that_is_no_video(root):
    (root / VIDEO).write_text("not a video")
    assert_single(problems_of(root), VIDEO, "not a readable video")


def test_parquet_without_footer(root):
    path = root / DATA
    path.write_bytes(path.read_bytes()[:-8])
    assert_single(problems_of(root), DATA, "not readable parquet", "(episodes 2, 3)")


def test_damaged_parquet_page(root):
    path = root / DATA
    contents = bytearray(path.read_bytes())
    contents[20:120] = bytes(100)
    path.write_bytes(contents)
    problems = problems_of(root)
    assert problems and all(DATA in problem and "episode" in problem for problem in problems)


@pytest.mark.parametrize("key", ["action", "observation.state", "next.reward"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite(root, key, value):
    def spoil(rows):
        rows[6][key] = value if key == "next.reward" else [0.0, value]
        return rows

    rewrite(root / DATA, spoil)
    assert_single(problems_of(root), DATA, key, "NaN or infinite in 1 frames, first 2", "(episode 3)")


def test_rows_missing(root):
    rewrite(root / DATA, lambda rows: rows[:2] + rows[3:])
    assert_single(problems_of(root), DATA, "3 rows", "says 4", "(episode 2)")


def test_rows_out_of_order(root):
    rewrite(root / DATA, lambda rows: [rows[1], rows[0], *rows[2:]])
    problems = problems_of(root)
    assert len(problems) == 2 and all("(episode 2)" in problem for problem in problems)
    assert "frame_index is 1 at frame 0" in problems[0] and "index is 13 at frame 0, expected 12" in problems[1]


def test_index_gap(root):
    rewrite(root / DATA, lambda rows: [row | {"index": row["index"] + (row["episode_index"] == 3)} for row in rows])
    assert_single(problems_of(root), DATA, "index is 17 at frame 0, expected 16", "(episode 3)")


def test_episode_rows_under_another_number(root):
    rewrite(
        root / DATA, lambda rows: [row | {"episode_index": 9} if row["episode_index"] == 3 else row for row in rows]
    )
    problems = problems_of(root)
    assert len(problems) == 2
    assert "0 rows" in problems[0] and "(episode 3)" in problems[0]
    assert "rows of episodes [9]" in problems[1]


def test_task_without_text(root):
    rewrite(root / DATA, lambda rows: [row | {"task_index": 7} for row in rows])
    assert_single(problems_of(root), DATA, "task_index [7]", "(episodes 2, 3)")
    with pytest.raises(DatasetError, match=r"task_index \[7\].*episode 2"):
        LeRobotDataset(root).episode(2)


def test_column_missing(root):
    path = root / DATA
    pq.write_table(pq.read_table(path).drop_columns(["action"]), path)
    assert_single(problems_of(root), DATA, "['action'] are missing", "(episodes 2, 3)")


def test_rows_without_an_episode(root):
    path = root / DATA
    table = pq.read_table(path)
    column = pa.array([None] + table["episode_index"].to_pylist()[1:], pa.int64())
    pq.write_table(table.set_column(table.schema.get_field_index("episode_index"), "episode_index", column), path)
    assert_single(problems_of(root), DATA, "episode_index has empty cells", "(episodes 2, 3)")


def test_vectors_of_another_width(root):
    path = root / DATA
    table = pq.read_table(path)
    wide = pa.array([[0.0, 1.0, 2.0]] * len(table), pa.list_(pa.float32(), 3))
    pq.write_table(table.set_column(table.schema.get_field_index("action"), "action", wide), path)
    problems = problems_of(root)
    assert len(problems) == 2 and all("action" in problem and DATA in problem for problem in problems)


def test_episodes_that_share_frames(root):
    name = f"videos/{CAMERA}/from_timestamp"
    rewrite(
        root / EPISODES, lambda rows: [row | {name: 0.2 if row["episode_index"] == 3 else row[name]} for row in rows]
    )
    assert_single(problems_of(root), VIDEO, "share frames 2 to 3", "(episodes 2, 3)")


def test_many_damages_are_listed_together(root):
    (root / VIDEO).unlink()
    (root / "data/chunk-000/file-000.parquet").write_text("?")
    edit_info(root, total_frames=99)
    problems = problems_of(root)
    assert len(problems) == 3
    assert "total_frames is 99" in problems[0]
    assert "(episodes 0, 1)" in problems[1] and "(episodes 2, 3)" in problems[2]


def edit_info(root, **changes) -> None:
    path = root / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codebase_version": "v1.6"}, "'v1.6', expected one of v2.1, v3.0"),
        ({"fps": 0}, "fps is 0, expected a positive number"),
        ({"fps": "ten"}, "fps is 'ten'"),
        ({"features": {}}, "features is {}"),
        ({"features": {"action": {"dtype": "float32", "shape": "2"}}}, "feature 'action' has shape '2'"),
        ({"features": {"cam": {"dtype": "video", "shape": [8, 8]}}}, "camera 'cam' has shape"),
        ({"total_episodes": "4"}, "total_episodes is '4'"),
        ({"total_episodes": 5}, "counts 5 episodes, the episode table lists 4"),
        ({"data_path": None}, "data_path is None"),
        ({"data_path": "data/{chunk}.parquet"}, "data_path is 'data/{chunk}.parquet', expected a template over"),
        ({"video_path": None}, "video_path is None"),
    ],
)
def test_bad_info_fails_at_once(root, changes, message):
    edit_info(root, **changes)
    with pytest.raises(DatasetError) as caught:
        LeRobotDataset(root)
    assert "meta/info.json" in str(caught.value) and message in str(caught.value)


@pytest.mark.parametrize("contents", ["", '{"codebase_version": "v3.0"', "[]", b"\xff\xfe\x00"])
def test_unreadable_info(root, contents):
    (root / "meta/info.json").write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    with pytest.raises(DatasetError, match=r"meta/info\.json"):
        LeRobotDataset(root)
    (root / "meta/info.json").unlink()
    with pytest.raises(DatasetError, match=r"meta/info\.json: missing"):
        LeRobotDataset(root)


def test_damaged_episode_table(root):
    rewrite(root / EPISODES, lambda rows: rows[1:])
    with pytest.raises(DatasetError, match="episodes 2 are missing"):
        LeRobotDataset(root)
    rewrite(root / EPISODES, lambda rows: rows + rows)
    with pytest.raises(DatasetError, match="meta.*missing|twice"):
        LeRobotDataset(root)
    (root / EPISODES).write_bytes((root / EPISODES).read_bytes()[:-8])
    with pytest.raises(DatasetError, match=r"file-001.*not readable parquet"):
        LeRobotDataset(root)
    (root / EPISODES).unlink()
    with pytest.raises(DatasetError, match="counts 4 episodes, the episode table lists 2"):
        LeRobotDataset(root)


def test_damaged_tasks_and_stats(root):
    (root / "meta/stats.json").write_text("{")
    with pytest.raises(DatasetError, match=r"stats\.json: not readable JSON"):
        LeRobotDataset(root).stats  # noqa: B018
    assert any("stats.json" in problem for problem in problems_of(root))
    (root / "meta/tasks.parquet").unlink()
    with pytest.raises(DatasetError, match=r"tasks\.parquet: missing"):
        LeRobotDataset(root)


def test_v21_damages(tmp_path):
    root = build_v21(tmp_path / "set")
    video = root / f"videos/chunk-000/{CAMERA}/episode_000001.mp4"
    encode_video(video, marked_frames(1, 9), Fraction(10))
    assert_single(problems_of(root), video.name, "holds 9 frames, the episode has 7", "(episode 1)")
    encode_video(video, marked_frames(1, 6), Fraction(10))
    assert_single(problems_of(root), video.name, "holds 6 frames", "(episode 1)")
    video.unlink()
    rewrite(root / "data/chunk-001/episode_000002.parquet", lambda rows: rows[:-1])
    problems = problems_of(root)
    assert len(problems) == 2 and "(episode 2)" in problems[0] and "(episode 1)" in problems[1]

    lines = (root / "meta/episodes.jsonl").read_text().splitlines()
    (root / "meta/episodes.jsonl").write_text("\n".join([lines[0], lines[2]]))
    with pytest.raises(DatasetError, match="episodes 1 are missing"):
        LeRobotDataset(root)
    (root / "meta/episodes.jsonl").write_text(lines[0][:-5])
    with pytest.raises(DatasetError, match=r"episodes\.jsonl: line 1 is not JSON"):
        LeRobotDataset(root)


def test_actions_come_back_unharmed_beside_the_damage(root):
    """Reading what is sound does not depend on what is not."""
    (root / VIDEO).unlink()
    actions = LeRobotDataset(root).episode(3, ["action"])["action"]
    assert actions.shape == (6, 2) and np.isfinite(actions).all()
