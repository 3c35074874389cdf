import pytest
import torch

from sana_wm.nn.layout import chunks_of, frame_layout


def test_causal_chunks_see_earlier_chunks_and_their_own():
    layout = frame_layout((2, 3, 1))
    assert layout.offset.tolist() == [0, 1, 2, 3, 4, 5]
    assert layout.chunk_start.tolist() == [0, 0, 2, 2, 2, 5]
    visible = layout.before | layout.after | torch.eye(6, dtype=torch.bool)
    chunk = torch.tensor([0, 0, 1, 1, 1, 2])
    assert torch.equal(visible, chunk[:, None] >= chunk[None, :])
    assert not (layout.before & layout.after).any()


def test_readers_see_the_writers_before_them_and_leave_no_trace():
    layout = frame_layout((1, 1, 1), ((2, 1), (2, 3)))
    assert layout.num_writers == 3
    assert layout.offset.tolist() == [0, 1, 2, 1, 2, 3, 4]
    assert layout.before[3].nonzero().flatten().tolist() == [0]
    assert layout.before[6].nonzero().flatten().tolist() == [0, 1, 2, 5]
    assert not layout.before[:3, 3:].any() and not layout.after[:3, 3:].any()


def test_neighbours_lie_on_the_path_in_the_tail_or_nowhere():
    layout, cpu = frame_layout((1, 1), ((1, 1),)), torch.device("cpu")
    tail, zero = 3, 3 + 3
    # frames: writers at 0 and 1, a reader at 1 that follows writer 0
    assert layout.neighbour(-1, tail, cpu).tolist() == [2, 3, 3]
    assert layout.neighbour(-3, tail, cpu).tolist() == [0, 1, 1]
    assert layout.neighbour(-4, tail, cpu).tolist() == [zero, 0, 0]
    assert layout.neighbour(1, tail, cpu).tolist() == [zero, zero, zero]


@pytest.mark.parametrize("layout", [
    frame_layout((5,)), frame_layout((2, 3, 1)), frame_layout((1, 1, 1), ((2, 1), (1, 3))), frame_layout((), ((3, 0),)),
    frame_layout((1,)),
])  # fmt: skip
@pytest.mark.parametrize("distance", [-3, -1, 1, 2])
@pytest.mark.parametrize("tail", [1, 3])
def test_runs_are_the_neighbours_as_slices(layout, distance, tail):
    frames = len(layout.offset)
    index = [tail + frames] * frames
    for start, stop, source in layout.runs(distance, tail):
        assert source >= tail or source + stop - start <= tail
        index[start:stop] = range(source, source + stop - start)
    assert index == layout.neighbour(distance, tail, torch.device("cpu")).tolist()


def test_one_chunk_is_where_all_see_each_other():
    layouts = [frame_layout(chunks) for chunks in ((1,), (4,), (3, 1), (1, 1))]
    assert [layout.one_chunk for layout in layouts] == [True, True, False, False]
    assert not frame_layout((2,), ((2, 0),)).one_chunk


@pytest.mark.parametrize(
    ("frames", "size", "plus_one", "expected"),
    [
        (7, 3, False, (3, 3, 1)),
        (7, 3, True, (4, 3)),
        (121, 3, True, (4,) + (3,) * 39),
        (2, 5, True, (2,)),
        (0, 2, True, ()),
    ],
)
def test_chunks_of(frames, size, plus_one, expected):
    assert chunks_of(frames, size, plus_one) == expected


def test_a_reader_cannot_follow_writers_that_are_not_there():
    with pytest.raises(ValueError, match="3 writer frames, but there are 2"):
        frame_layout((1, 1), ((1, 3),))
