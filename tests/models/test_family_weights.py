"""Published weights of the image and video members: diffusers' and NVlabs' layouts, and what comes out again."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from sana_wm.models.diffusers_names import from_diffusers_names, to_diffusers_names
from sana_wm.models.family import IMAGE, VIDEO, ratio_of
from sana_wm.models.transformer import SanaTransformer
from sana_wm.models.weights import RECOMPUTED, ours_from_published, published_from_ours
from tests.models.family_reference import IMAGES, VIDEOS, inputs, reference, run_reference

CASES = [("image", case) for case in IMAGES] + [("video", case) for case in VIDEOS]
HEADS = {"heads": 3, "text_heads": 2}  # which NVlabs' files do not say
EPS = {"text_norm_eps": 1e-5, "linear_eps": 1e-15, "integer_timesteps": False}
CLASS = {"image": IMAGE, "video": VIDEO}


def saved(folder, kind: str, case: str, **changes):
    theirs = reference(kind, torch.float32, **(IMAGES if kind == "image" else VIDEOS)[case] | changes)
    theirs.save_pretrained(folder)
    return theirs


def tensors_of(folder):
    return load_file(folder / "diffusion_pytorch_model.safetensors")


@torch.no_grad()
def velocity(net):
    return net(**inputs(net, 1 if not net.config.temporal_conv else 2, (4, 6), torch.float32)).velocity


def as_nvlabs(tensors, kind):
    """What diffusers saved under the names and in the shapes of NVlabs' files, with what those have besides."""
    tensors = from_diffusers_names(tensors, CLASS[kind])
    if kind == "image":
        tensors["x_embedder.proj.weight"] = tensors["x_embedder.proj.weight"].squeeze(2)
    for linear, number in (("linear_1", "mlp.0"), ("linear_2", "mlp.2")):
        tensors = {name.replace(f"embedder.{linear}", f"embedder.{number}"): t for name, t in tensors.items()}
    dropped = {"pos_embed": (1, 9, 24), "y_embedder.y_embedding": (6, 10), "logvar_linear.weight": (1, 24),
               "logvar_linear.bias": (1,)}  # fmt: skip
    return tensors | {name: torch.zeros(shape) for name, shape in dropped.items()}


def same(one, other):
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind,case", CASES)
def test_official_to_ours_to_diffusers_to_ours_is_the_identity(tmp_path, kind, case):
    saved(tmp_path / "theirs", kind, case)
    file = tmp_path / "official.safetensors"
    save_file(as_nvlabs(tensors_of(tmp_path / "theirs"), kind), file)
    told = HEADS | EPS
    if "sincos" in case:
        told |= {"positions": "sincos"} | {"sample_size": IMAGES[case]["sample_size"]}
        told |= {"interpolation": IMAGES[case]["interpolation_scale"]}
    if case == "sprint":
        told |= {"timestep_scale": 1.0}
    official = SanaTransformer.from_pretrained(file, **told)
    official.save_pretrained(tmp_path / "again", layout="diffusers", max_shard_size="20KB")
    again = SanaTransformer.from_pretrained(tmp_path / "again")
    assert same(official.state_dict(), again.state_dict())
    before = {name: value for name, value in official.config.to_dict().items() if name != "sample_size"}
    assert before == {name: value for name, value in again.config.to_dict().items() if name != "sample_size"}
    theirs = SanaTransformer.from_pretrained(tmp_path / "theirs")
    assert same(theirs.state_dict(), again.state_dict())
    assert torch.equal(velocity(official), velocity(again)) and torch.equal(velocity(theirs), velocity(again))


@pytest.mark.parametrize("kind,case", CASES)
def test_nvlabs_files_come_out_as_they_went_in(tmp_path, kind, case):
    saved(tmp_path / "theirs", kind, case)
    ours = SanaTransformer.from_pretrained(tmp_path / "theirs")
    ours.save_pretrained(tmp_path / "official", layout="nvlabs")
    official = as_nvlabs(tensors_of(tmp_path / "theirs"), kind)
    for_training = {name for name in official if RECOMPUTED.fullmatch(name)}
    written = load_file(tmp_path / "official" / "model.safetensors")
    assert len(for_training) == 4 and same(written, {n: t for n, t in official.items() if n not in for_training})
    again = SanaTransformer.from_pretrained(tmp_path / "official")
    assert again.config == ours.config and same(again.state_dict(), ours.state_dict())


@pytest.mark.parametrize("kind,case", CASES)
def test_what_we_save_for_diffusers_diffusers_reads(tmp_path, kind, case):
    theirs = saved(tmp_path / "theirs", kind, case)
    ours = SanaTransformer.from_pretrained(tmp_path / "theirs")
    ours.save_pretrained(tmp_path / "ours", layout="diffusers", max_shard_size="20KB")
    read = type(theirs).from_pretrained(tmp_path / "ours").eval()
    assert same(theirs.state_dict(), read.state_dict())
    before, after = ({k: v for k, v in dict(net.config).items() if k[0] != "_"} for net in (theirs, read))
    assert json.loads(json.dumps(before)) == json.loads(json.dumps(after))
    ours, read = ours.double(), read.double()  # in float32, what processors round differently shows at these gains
    given = inputs(ours, 2 if kind == "video" else 1, (4, 6), torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(**given).velocity, run_reference(read, given), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", CLASS)
def test_names_there_and_back_are_the_identity(tmp_path, kind):
    saved(tmp_path, kind, "sprint" if kind == "image" else "guided")
    tensors = tensors_of(tmp_path)
    official = from_diffusers_names(tensors, CLASS[kind])
    assert official["blocks.1.attn.qkv.weight"].shape == (72, 24) and "cfg_embedder.linear_2.bias" in official
    assert official["blocks.1.cross_attn.kv_linear.bias"].shape == (48,)
    assert same(to_diffusers_names(official, CLASS[kind]), tensors)
    net = SanaTransformer.from_pretrained(tmp_path)
    patch = net.config.patch_size
    ours = net.state_dict()
    assert same(ours_from_published(ours, published_from_ours(ours, patch), patch, ""), ours)


def test_our_own_folders_come_back(tmp_path):
    saved(tmp_path / "theirs", "image", "sincos")
    ours = SanaTransformer.from_pretrained(tmp_path / "theirs")
    ours.save_pretrained(tmp_path / "ours")
    again = SanaTransformer.from_pretrained(tmp_path / "ours")
    assert again.config == ours.config and again.config.grid is None
    assert torch.equal(velocity(again), velocity(ours))
    assert SanaTransformer.from_pretrained(tmp_path / "ours", grid=(4, 6)).config.tokens == 24


def test_a_preset_gives_the_modes_and_the_file_the_sizes(tmp_path):
    saved(tmp_path, "image", "normed")
    ours = SanaTransformer.from_pretrained(tmp_path, preset="sana-1600m-4k")
    c = ours.config
    assert (c.positions, c.sample_size, c.interpolation, c.text_norm_eps) == ("sincos", 128, 2.0, 1e-6)
    assert (c.width, c.heads, c.text_heads, c.depth, c.qk_norm, c.in_channels) == (24, 3, 2, 3, True, 3)


def test_heads_of_nvlabs_files_are_those_of_the_released_sizes(tmp_path):
    from sana_wm.models.presets import from_shapes, preset

    for name in ("sana-600m", "sana1.5-1600m", "sana-sprint-600m", "sana-video-2b-480p", "sana-video-2b-720p",
                 "sana-streaming-2b-bidirectional"):  # fmt: skip
        config = preset(name)
        with torch.device("meta"):
            state = SanaTransformer(config).state_dict()
        shapes = {n: tuple(t.shape) for n, t in published_from_ours(state, config.patch_size).items()}
        told = type(config).from_dict(from_shapes(shapes))
        apart = {"sample_size"} if "video" in name else set()
        assert {k for k, v in config.to_dict().items() if told.to_dict()[k] != v} <= apart


@pytest.mark.parametrize("kernel", [1, 3])
def test_queries_and_keys_of_streaming_files_are_read_at_their_centre_tap(tmp_path, kernel):
    from sana_wm.models.presets import preset

    sizes = {"in_channels": 3, "width": 16, "depth": 4, "heads": 2, "text_heads": 2, "text_dim": 5, "grid": (2, 3)}
    ours = SanaTransformer(preset("sana-streaming-2b", **sizes))
    torch.nn.init.normal_(ours.final_linear.weight)
    tensors = published_from_ours(ours.state_dict(), 1)
    for i in range(4):
        parts = dict(zip("qkv", tensors.pop(f"blocks.{i}.attn.qkv.weight").chunk(3), strict=True))
        for name in "qk":
            taps = torch.randn(16, 16, kernel)
            taps[:, :, kernel // 2] = parts[name]
            parts[name] = taps
        tensors |= {f"blocks.{i}.attn.{name}.weight": part.contiguous() for name, part in parts.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    again = SanaTransformer.from_pretrained(tmp_path, preset="sana-streaming-2b", grid=(2, 3))
    assert same(ours.state_dict(), again.state_dict())
    assert (again.config.source, again.config.in_channels, again.config.sink) == (True, 3, 5)


def test_tensors_that_do_not_fit_are_named_as_diffusers_names_them(tmp_path):
    saved(tmp_path, "video", "pixels")
    tensors = tensors_of(tmp_path)
    del tensors["transformer_blocks.1.attn2.to_k.weight"]
    tensors["transformer_blocks.0.ff.conv_temp.weight"] = torch.zeros(1)
    tensors["lora.weight"] = torch.zeros(2)
    save_file(tensors, tmp_path / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ValueError) as error:
        SanaTransformer.from_pretrained(tmp_path)
    for problem in (
        "missing transformer_blocks.1.attn2.to_k.weight (24, 24)",
        "extra lora.weight (2,)",
        "transformer_blocks.0.ff.conv_temp.weight has shape (1,), expected (24, 24, 3, 1)",
    ):
        assert problem in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_bias": True}, "attention_bias=True"),
        ({"norm_elementwise_affine": True}, "norm_elementwise_affine=True"),
        ({"qk_norm": "layer_norm"}, "qk_norm='layer_norm'"),
        ({"out_channels": 6}, r"out_channels=6 \(expected 3\)"),
        ({"cross_attention_head_dim": 8}, "cross_attention_head_dim=8"),
        ({"guidance_embeds_scale": 1.0}, "guidance_embeds_scale=1.0"),
    ],
)
def test_a_configuration_that_computes_something_else_is_refused(tmp_path, change, message):
    saved(tmp_path, "image", "plain")
    config = json.loads((tmp_path / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        SanaTransformer.from_pretrained(tmp_path)


def test_what_diffusers_has_no_class_for_is_refused(tmp_path):
    saved(tmp_path / "theirs", "image", "plain")
    ours = SanaTransformer.from_pretrained(tmp_path / "theirs", action_dim=2)
    with pytest.raises(ValueError, match="diffusers has no place for a transformer with action_dim=2"):
        ours.save_pretrained(tmp_path / "ours", layout="diffusers")


SMALL = {"in_channels": 3, "width": 24, "depth": 1, "heads": 3, "text_heads": 2, "text_dim": 10, "patch_size": 1}


def test_diffusers_has_no_class_for_causal_videos(tmp_path):
    from sana_wm.models.presets import preset

    ours = SanaTransformer(preset("longsana-2b-480p", **SMALL))
    with pytest.raises(ValueError, match="no place for .*temporal='chunk_causal'.*layout='sana_wm'"):
        ours.save_pretrained(tmp_path, layout="diffusers")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["sana-1600m", "sana-video-2b-480p"])
def test_what_diffusers_cannot_say_is_named_and_comes_back(tmp_path, name):
    import diffusers

    from sana_wm.models.presets import preset

    ours = SanaTransformer(preset(name, **SMALL))
    with pytest.warns(UserWarning, match="linear_eps=1e-08, text_norm_eps=1e-06, integer_timesteps=True"):
        ours.save_pretrained(tmp_path, layout="diffusers")
    assert SanaTransformer.from_pretrained(tmp_path).config == ours.config
    getattr(diffusers, json.loads((tmp_path / "config.json").read_text())["_class_name"]).from_pretrained(tmp_path)


def test_a_pickle_is_refused_with_advice(tmp_path):
    torch.save({"state_dict": {"x_embedder.proj.weight": torch.zeros(1)}}, tmp_path / "Sana_1600M_1024px.pth")
    with pytest.raises(ValueError, match="a pickle can run anything.*'state_dict'.*save_file"):
        SanaTransformer.from_pretrained(tmp_path)


def test_the_wrapper_of_a_trainer_is_taken_off(tmp_path):
    saved(tmp_path / "theirs", "image", "plain")
    official = as_nvlabs(tensors_of(tmp_path / "theirs"), "image")
    save_file({f"module.{name}": tensor for name, tensor in official.items()}, tmp_path / "model.safetensors")
    ours = SanaTransformer.from_pretrained(tmp_path / "model.safetensors", **HEADS, **EPS)
    assert torch.equal(velocity(ours), velocity(SanaTransformer.from_pretrained(tmp_path / "theirs")))


def test_ratios_give_back_the_hidden_width():
    for width in (24, 1152, 2240):
        for hidden in range(1, 4 * width, 7):
            assert int(width * ratio_of(hidden, width)) == hidden
