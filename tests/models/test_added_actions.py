"""Robot actions added to a checkpoint of cameras: nothing changes, and one step of training makes it listen."""

import pytest
import torch

from sana_wm.models.transformer import CleanPast, SanaTransformer
from tests.models.tiny_sana_wm import CHANNELS, TEXT_DIM, randomised, tiny_transformer

A, B, T, GRID = 5, 2, 4, (2, 3)
STREAM = {"temporal": "chunk_causal", "chunk_size": 1, "window": 3, "sink": 1}
LAYOUTS = ("diffusers", "sana_wm", "nvlabs")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The same checkpoint as diffusers writes it, as we do, and as one file without a configuration."""
    folder, net = tmp_path_factory.mktemp("camera"), tiny_transformer(camera_scale=128**-0.5)
    net.save_pretrained(folder / "sana_wm")
    for name in ("diffusers", "nvlabs"):
        net.save_pretrained(folder / name, layout="diffusers")
    (folder / "nvlabs" / "config.json").unlink()
    return folder


def given(frames: int = T, seed: int = 0) -> dict:
    """Everything a forward pass is told but actions."""
    draw = torch.Generator().manual_seed(seed)
    pose = torch.eye(4).flatten().expand(B, frames, 16).clone()
    pose[..., [3, 7, 11]] += 0.1 * torch.randn(B, frames, 3, generator=draw)
    intrinsics = torch.tensor([3.0, 3.0, 1.0, 0.5]).expand(B, frames, 4)
    return {
        "latents": torch.randn(B, CHANNELS, frames, *GRID, generator=draw),
        "timestep": 1000 * torch.rand(B, frames, generator=draw),
        "text": torch.randn(B, 4, TEXT_DIM, generator=draw),
        "camera": torch.cat([pose, intrinsics], dim=-1),
        "plucker": torch.randn(B, 48, frames, *GRID, generator=draw),
    }


def actions(frames: int = T, size: float = 1.0) -> torch.Tensor:
    return size * torch.randn(B, frames, A, generator=torch.Generator().manual_seed(1))


def part(values: dict, start: int, stop: int) -> dict:
    """The frames start ... stop - 1."""
    time = {"latents": 2, "plucker": 2, "timestep": 1, "camera": 1, "actions": 1}
    return {n: v.narrow(time[n], start, stop - start) if n in time else v for n, v in values.items()}


@torch.no_grad()
def streamed(net, values: dict) -> torch.Tensor:
    """Every frame denoised against the committed ones before it."""
    state, made = net.initial_state(B), []
    for t in range(T):
        now = part(values, t, t + 1)
        made.append(net(**now, state=state).velocity)
        state = net(**now | {"timestep": torch.zeros(B, 1)}, state=state, commit=True).state
    return torch.cat(made, dim=2)


@torch.no_grad()
def against_past(net, values: dict) -> torch.Tensor:
    before, after = part(values, 0, T - 1), part(values, 1, T)
    past = CleanPast(before["latents"], before.get("actions"), None, before["camera"], before["plucker"])
    return net(**after, past=past).velocity


@torch.no_grad()
def whole(net, values: dict) -> torch.Tensor:
    return net(**values).velocity


WAYS = {
    "bidirectional": ({"temporal": "bidirectional"}, whole), "chunk-causal": (STREAM | {"chunk_size": 2}, whole),
    "stream": (STREAM, streamed), "training": (STREAM, against_past),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("way", WAYS)
def test_added_actions_change_nothing_until_they_are_trained(saved, layout, way):
    settings, run = WAYS[way]
    settings = {"grid": GRID, "camera_scale": 128**-0.5} | settings
    before = SanaTransformer.from_pretrained(saved / layout, **settings)
    after = SanaTransformer.from_pretrained(saved / layout, action_dim=A, **settings)
    expected = run(before, given())
    for size in (0.0, 1.0, 1e4):
        assert torch.equal(run(after, given() | {"actions": actions(size=size)}), expected), size

    # One update, and they are listened to: two zeros in a row would never get there.
    after.train()
    rate = torch.optim.SGD(after.parameters(), lr=1.0)
    full = given() | {"actions": actions()}
    after(**full, chunks=(1,) * T).velocity.pow(2).sum().backward()
    rate.step()
    pair = [run(after, full | {"actions": a}) for a in (actions(), actions() + 1)]
    assert (pair[0] - pair[1]).abs().max() > 1e-4
    assert (after.action_embedder.linear_1.weight.grad == 0).all()  # behind a zero now, reached by the next update
    assert after.action_time_proj.weight.abs().max() > 0 and after.blocks[0].action_proj.weight.abs().max() > 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_precision_holds_for_what_is_added(saved, layout):
    net = SanaTransformer.from_pretrained(saved / layout, grid=GRID, action_dim=A, dtype=torch.bfloat16)
    assert {p.dtype for p in net.parameters()} == {torch.bfloat16} and not any(b.is_meta for b in net.buffers())
    told = given() | {"actions": actions()}
    assert torch.isfinite(whole(net, told | {"timestep": told["timestep"].bfloat16()}).float()).all()


def test_an_action_reaches_its_latent_and_later_ones_only(saved):
    """Oracle 15 of the spec: edge k, raw frames 8 i - 7 ... 8 i, influences latents from i on."""
    settings = {"grid": GRID, "action_dim": A} | STREAM
    net = randomised(SanaTransformer.from_pretrained(saved / "diffusers", **settings))
    for run in (whole, streamed):
        full = given() | {"actions": actions()}
        base = run(net, full)
        for i in range(T):
            other = actions()
            other[:, i] += 0.5
            change = (run(net, full | {"actions": other}) - base).abs().amax((0, 1, 3, 4))
            assert (change[:i] == 0).all() and (change[i:] > 0).all(), (run, i, change)


def test_what_is_saved_with_actions_comes_back_and_is_not_mixed(saved, tmp_path):
    net = randomised(SanaTransformer.from_pretrained(saved / "diffusers", grid=GRID, action_dim=A))
    net.save_pretrained(tmp_path)
    again = SanaTransformer.from_pretrained(tmp_path)
    told = given() | {"actions": actions()}
    assert again.config == net.config and torch.equal(whole(again, told), whole(net, told))
    streaming = SanaTransformer.from_pretrained(tmp_path, preset="sana-wm-streaming")
    assert streaming.config.action_dim == A and streaming.config.chunk_size == 3
    with pytest.raises(ValueError, match=r"action_embedder.linear_1.weight has shape \(32, 45\), expected \(32, 54\)"):
        SanaTransformer.from_pretrained(tmp_path, action_dim=A + 1)


@pytest.mark.parametrize("layout", ["diffusers", "sana_wm"])
def test_only_all_of_the_action_tensors_may_be_missing(saved, tmp_path, layout):
    from safetensors.torch import load_file, save_file

    source = next((saved / layout).glob("*.safetensors"))
    (tmp_path / "config.json").write_bytes((saved / layout / "config.json").read_bytes())
    tensors = load_file(source)
    for name, tensor, message in (
        ("action_time_proj.weight", torch.zeros(32, 32), "missing action_embedder.linear_1.bias"),
        ("action_gate.weight", torch.zeros(2), "extra action_gate.weight"),
        ("blocks.0.scale_shift_table", torch.zeros(6, 8), r"scale_shift_table has shape \(6, 8\), expected \(6, 32\)"),
        ("blocks.0.scale_shift_table", None, "missing blocks.0.scale_shift_table"),
    ):
        changed = tensors | {name: tensor}
        save_file({n: t for n, t in changed.items() if t is not None}, tmp_path / "model.safetensors")
        with pytest.raises(ValueError, match=message) as error:
            SanaTransformer.from_pretrained(tmp_path, grid=GRID, action_dim=A)
        assert "action_proj" not in str(error.value) or "action_time" in name
