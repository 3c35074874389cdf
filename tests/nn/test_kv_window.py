"""Window and sink against what they mean, frame by frame."""

import pytest
import torch

from sana_wm.nn import kv_window
from sana_wm.nn.kv_window import attend, memory_mask, remember
from sana_wm.nn.layout import frame_layout

AGES = [0, 1, 2, 5, 9]


def held(age, sink, window):
    """The frame (counted from the stream's start) in every slot of a lane's memory; None: nothing yet."""
    first = [s if s < age else None for s in range(sink)]
    return first + [t if t >= 0 else None for t in range(age - window, age)]


@pytest.mark.parametrize("sink,window", [(0, 3), (2, 3), (4, 1), (3, 0), (0, 0), (1, 8)])
@pytest.mark.parametrize("chunks", [(1,), (3,), (2, 1, 2), (1, 1, 1, 1)])
def test_a_frame_reads_its_chunk_the_window_before_it_and_the_sink_once_each(sink, window, chunks):
    mask = memory_mask(frame_layout(chunks), window, torch.tensor(AGES), sink)
    frames = sum(chunks)
    assert mask.shape == (len(AGES), frames, sink + window + frames)
    for lane, age in enumerate(AGES):
        slots, f = held(age, sink, window) + [age + i for i in range(frames)], 0
        for size in chunks:
            start = age + f
            expected = set(range(start, start + size)) | set(range(max(start - window, 0), start))
            expected |= set(range(min(sink, start)))
            for _ in range(size):
                read = [slots[i] for i in mask[lane, f].nonzero().flatten().tolist()]
                assert sorted(read) == sorted(expected)  # each once, none that is empty
                f += 1


@pytest.mark.parametrize("sink,window", [(0, 3), (2, 3), (4, 1), (3, 0), (6, 2)])
@pytest.mark.parametrize("written", [0, 1, 2, 4])
def test_the_memory_keeps_the_first_frames_and_the_last_ones(sink, window, written):
    def frames(times):
        return torch.tensor([-1.0 if t is None else t for t in times])[None, :, None, None]  # (H, K, S, D)

    old = torch.stack([frames(held(age, sink, window)) for age in AGES])
    new = torch.stack([frames([age + i for i in range(written)] + [77.0, 78.0]) for age in AGES])  # two are readers
    kept = remember(torch.cat([old, new], dim=2), sink, window, written, torch.tensor(AGES))
    assert torch.equal(kept, torch.stack([frames(held(age + written, sink, window)) for age in AGES]))


def test_attention_frame_by_frame_is_attention(monkeypatch):
    g = torch.Generator().manual_seed(0)
    q = torch.randn(2, 3, 4, 5, 8, generator=g, dtype=torch.float64)
    keys, values = torch.randn(2, 2, 3, 7, 5, 8, generator=g, dtype=torch.float64)
    mask = torch.rand(2, 4, 7, generator=g) < 0.6
    mask[..., -1] = True
    out = attend(q, keys, values, mask, 0.3)
    logits = torch.einsum("bhfsd,bhktd->bhfskt", q, keys) * 0.3
    weights = (
        logits.masked_fill(~mask[:, None, :, None, :, None], -torch.inf).flatten(-2).softmax(-1).unflatten(-1, (7, 5))
    )
    torch.testing.assert_close(out, torch.einsum("bhfskt,bhktd->bhfsd", weights, values), atol=1e-12, rtol=1e-12)
    monkeypatch.setattr(kv_window, "MASK_ELEMENTS", 0)
    torch.testing.assert_close(attend(q, keys, values, mask, 0.3), out, atol=1e-12, rtol=1e-12)
