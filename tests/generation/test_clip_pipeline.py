"""Videos against diffusers' SanaVideoPipeline and SanaImageToVideoPipeline with the same small random weights."""

import numpy as np
import pytest
import torch
from PIL import Image

from sana_wm.generation.clip import ClipPipeline
from sana_wm.generation.clip_sampling import SAMPLING, ClipSampling, clip_conditions, clip_latents, clip_noise
from sana_wm.generation.image_sampling import Prompt
from sana_wm.models.transformer import SanaTransformer
from sana_wm.models.wan_vae import WanVAE, load_video_vae
from tests.generation.tiny_clip import flow_scheduler, tiny_wan, video_encoder, video_transformer
from tests.models.tiny_sana_wm import tiny_vae

diffusers = pytest.importorskip("diffusers")
PROMPTS, NEGATIVE = ["A small Robot ", "two red cubes"], "blurry"
SIZE = (64, 96)


@pytest.fixture(scope="module", params=["wan", "ltx"])
def member(request, tmp_path_factory):
    """diffusers' networks, and ours read from the folders that diffusers wrote."""
    folder = tmp_path_factory.mktemp(request.param)
    network = video_transformer(request.param)
    vae = tiny_wan() if request.param == "wan" else tiny_vae()
    network.save_pretrained(folder / "transformer")
    vae.save_pretrained(folder / "vae")
    ours = SanaTransformer.from_pretrained(folder / "transformer"), load_video_vae(folder / "vae")
    return (network, vae), ours, video_encoder()


def theirs(member, build, shift):
    (network, vae), _, text = member
    pipeline = build(text.tokenizer, text.model, vae, network, flow_scheduler(shift))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def ours(member, base=None, **settings):
    _, (network, vae), text = member
    return ClipPipeline(network, vae, text, ClipSampling(**{"motion": 0} | settings), base, lowercase=True)


def noise(pipeline, frames, lanes=2, seed=3):
    shape = (lanes, *pipeline._shape(SIZE))
    made = torch.randn(shape[0], shape[1], pipeline.latent_frames(frames), *shape[2:],
                       generator=torch.Generator().manual_seed(seed))  # fmt: skip
    return made


def assert_alike(got, expected):
    """uint8 against 0..1, of videos that are not of one colour."""
    assert got.shape == expected.shape and expected.std() > 0.01
    assert np.abs(got - 255 * expected).max() <= 1.01


@pytest.mark.parametrize(("steps", "shift", "guidance"), [(4, 8.0, 6.0), (2, 3.0, 1.0)])
def test_text_to_video_equals_the_pipeline(member, steps, shift, guidance):
    pipeline = ours(member, steps=steps, shift=shift, guidance=guidance)
    reference = theirs(member, diffusers.SanaVideoPipeline, shift)
    frames = 2 * pipeline.stride + 1
    begin = noise(pipeline, frames)
    how = {
        "negative_prompt": NEGATIVE, "height": SIZE[0], "width": SIZE[1], "frames": frames,
        "num_inference_steps": steps, "guidance_scale": guidance, "use_resolution_binning": False,
    }  # fmt: skip
    latents = reference(PROMPTS, latents=begin.clone(), output_type="latent", **how).frames
    got = pipeline.latents(PROMPTS, SIZE, frames, negative=NEGATIVE, noise=begin)
    assert (latents - begin).std() > 0.1
    torch.testing.assert_close(got, latents, atol=1e-5, rtol=1e-5)
    video = reference(PROMPTS, latents=begin.clone(), output_type="np", **how).frames
    made = np.stack([np.concatenate(list(pipeline.decode(lane, *SIZE))) for lane in got.split(1)])
    assert_alike(made, video)


@pytest.mark.parametrize("guidance", [6.0, 1.0])
def test_image_to_video_equals_the_pipeline(member, guidance):
    pipeline = ours(member, steps=3, guidance=guidance)
    reference = theirs(member, diffusers.SanaImageToVideoPipeline, 8.0)
    frames, text = 2 * pipeline.stride + 1, PROMPTS[0]
    begin = noise(pipeline, frames, lanes=1)
    pixels = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    how = {
        "negative_prompt": NEGATIVE, "height": SIZE[0], "width": SIZE[1], "frames": frames, "num_inference_steps": 3,
        "guidance_scale": guidance, "use_resolution_binning": False,
    }  # fmt: skip
    latents = reference(picture, text, latents=begin.clone(), output_type="latent", **how).frames
    got = pipeline.latents([text], SIZE, frames, negative=NEGATIVE, noise=begin, picture=picture)
    torch.testing.assert_close(got, latents, atol=1e-5, rtol=1e-5)
    assert torch.equal(got[:, :, :1], pipeline.encode_picture(picture, SIZE))
    without = pipeline.latents([text], SIZE, frames, negative=NEGATIVE, noise=begin)
    assert (got - without)[:, :, 1:].abs().max() > 1e-3
    video = reference(picture, text, latents=begin.clone(), output_type="np", **how).frames
    assert_alike(np.concatenate(list(pipeline.decode(got, *SIZE)))[None], video)


def test_sizes_are_binned_as_in_the_pipeline(member):
    """One frame is enough. (Of sizes that diffusers' rounding misses by a pixel it makes an error.)"""
    base, inside, (height, width) = (480, (480, 832), (120, 200)) if member[1][1].stride == 4 else (
        720, (704, 1280), (176, 310)
    )  # fmt: skip
    pipeline = ours(member, base=base, steps=1, guidance=1.0)
    reference = theirs(member, diffusers.SanaVideoPipeline, 8.0)
    assert pipeline.inside(height, width) == inside
    channels, *grid = pipeline._shape(inside)
    begin = torch.randn(1, channels, 1, *grid, generator=torch.Generator().manual_seed(0))
    how = {"height": height, "width": width, "frames": 1, "num_inference_steps": 1, "guidance_scale": 1.0}
    expected = reference(PROMPTS[0], latents=begin.clone(), output_type="np", **how).frames
    latents = pipeline.latents(PROMPTS[:1], inside, 1, noise=begin)
    assert_alike(np.concatenate(list(pipeline.decode(latents, height, width)))[None], expected)


# --- what the network is asked ---------------------------------------------------------------------------------------


class Spied:
    """A transformer that notes what it is asked."""

    def __init__(self, network):
        self.network, self.calls = network, []

    def __getattr__(self, name):
        return getattr(self.network, name)

    def __call__(self, latents, timestep, text, **how):
        self.calls.append((latents, timestep, text))
        return self.network(latents, timestep, text, **how)


def texts(network):
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(2, 6, network.config.text_dim, generator=generator)
    told = Prompt(features[:1], torch.arange(6)[None] < 5)
    return told, Prompt(features[1:], torch.arange(6)[None] < 3)


@pytest.mark.parametrize(("null_mask", "tokens"), [("negative", 3), ("prompt", 5)])
def test_masks_of_guidance(member, null_mask, tokens):
    network, (told, against) = Spied(member[1][0]), texts(member[1][0])
    sampling = ClipSampling(steps=1, null_mask=null_mask)
    begin = torch.randn(2, network.config.in_channels, 2, 4, 2)
    clip_latents(network, begin, clip_conditions(network, told, against, sampling), sampling)
    ((_, _, text),) = network.calls
    assert text.mask.sum(1).tolist() == [tokens, tokens, 5, 5]


def test_guidance_only_between_two_sigmas(member):
    network, (told, against) = Spied(member[1][0]), texts(member[1][0])
    sampling = ClipSampling(steps=4, guided=(0.9, 1.0))
    begin = torch.randn(1, network.config.in_channels, 2, 4, 2)
    clip_latents(network, begin, clip_conditions(network, told, against, sampling), sampling)
    expected = [2 if sigma >= 0.9 else 1 for sigma in sampling.schedule()[:-1].tolist()]
    assert [len(latents) for latents, _, _ in network.calls] == expected and set(expected) == {1, 2}


def test_the_given_frame_stands_at_time_zero_and_is_never_touched(member):
    network, (told, against) = Spied(member[1][0]), texts(member[1][0])
    sampling = ClipSampling(steps=3)
    begin = torch.randn(1, network.config.in_channels, 3, 4, 2)
    first = torch.randn_like(begin[:, :, :1])
    made = clip_latents(network, begin, clip_conditions(network, told, against, sampling), sampling, first=first)
    assert torch.equal(made[:, :, :1], first)
    for latents, time, _ in network.calls:
        assert torch.equal(latents[:, :, :1], first.expand(2, -1, -1, -1, -1))
        assert (time[:, 0] == 0).all() and (time[:, 1:] > 0).all() and (time == time.floor()).all()


# --- the pipeline's own promises -------------------------------------------------------------------------------------


def test_a_video_is_a_function_of_its_prompt_and_seed(member):
    pipeline = ours(member, steps=2)
    how = {"frames": 1 + pipeline.stride, "height": 64, "width": 96}
    together = pipeline([*PROMPTS, PROMPTS[0]], [5, 5, 6], **how).astype(int)
    assert together.shape == (3, 1 + pipeline.stride, 64, 96, 3)
    assert np.abs(pipeline(PROMPTS[1:], [5], **how) - together[1:2]).max() <= 1
    assert np.abs(together[0] - together[2]).mean() > 1
    whole, part = (clip_noise([7, 8], 0, n, 0, (2, 3, 4)) for n in (5, 3))
    assert torch.equal(whole[:, :, :3], part) and torch.equal(clip_noise([8], 2, 4, 0, (2, 3, 4))[0], whole[1, :, 2:4])
    assert not torch.equal(clip_noise([7], 0, 3, 1, (2, 3, 4))[0], part[0])


def test_the_score_of_motion_is_told_behind_the_prompt(member):
    pipeline = ours(member, motion=30)
    assert pipeline.text(" A Cat ") == "a cat motion score: 30." and pipeline.text("Blurry", instruct=False) == "blurry"
    assert ours(member).text("A cat") == "a cat"
    with_score, without = (pipeline.encode(["a cat"], instruct).features for instruct in (True, False))
    assert not torch.equal(with_score, without)
    assert [SAMPLING[name].motion for name in ("sana-video-2b-480p", "longsana-2b-480p")] == [30, 10]


@pytest.mark.parametrize("tiling", ["auto", "on", "off"])
def test_decoding_is_that_of_the_whole_clip(member, tiling):
    _, (_, vae), _ = member
    pipeline = ClipPipeline(member[1][0], vae, None, ClipSampling(), None, tiling=tiling)
    latents = torch.randn(1, vae.channels, 3, *vae.grid(SIZE), generator=torch.Generator().manual_seed(0))
    stretches = list(pipeline.decode(latents, *SIZE))
    assert len(stretches) == (1 if tiling == "on" else 3)
    vae.vae.use_tiling = False
    assert np.abs(np.concatenate(stretches).astype(int) - vae.decode(latents)[0]).max() <= 1


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """LongSANA in blocks of 2 latent frames: 5 of them are 3 and 2."""
    folder = tmp_path_factory.mktemp("long")
    video_transformer().save_pretrained(folder)
    network = SanaTransformer.from_pretrained(folder, preset="longsana-2b-480p", chunk_size=2)
    return ClipPipeline(network, WanVAE(tiny_wan()), video_encoder(), SAMPLING["longsana-2b-480p"], None)


def test_longsana_makes_the_videos_of_lanes_alone(long):
    how, seen = {"frames": 17, "height": 32, "width": 48}, []
    together = long(PROMPTS, [5, 6], progress=lambda *done: seen.append(done), **how).astype(int)
    assert together.shape == (2, 17, 32, 48, 3) and seen == [(k, 5) for k in range(1, 6)] * 2
    assert np.abs(long(PROMPTS[1], 6, **how) - together[1:]).max() <= 1
    assert np.abs(together[0] - together[1]).mean() > 1


@pytest.mark.parametrize(("cut", "changed"), [(1, 3), (8, 3), (9, 3), (10, 5), (16, 5)])
def test_a_scene_begins_with_the_first_block_behind_its_frame(long, cut, changed):
    """Blocks are latents 0 to 2, 3 and 4, from frames 0 and 9 of the video on; 5 and 6 follow from frame 17 on."""

    def latents(scenes):
        return torch.cat(list(long.stream([scenes], (32, 48), 25, seeds=3)), dim=2)

    moved = (latents([(0, "a"), (cut, "b")]) - latents([(0, "a")])).abs().amax((0, 1, 3, 4))
    assert not moved[:changed].any() and (moved[changed:] > 1e-6).all()


def test_scenes_that_cannot_be(long):
    for scenes in ([], [(1, "a")], [(0, "a"), (0, "b")], [(0, "a"), (5, "b"), (4, "c")]):
        with pytest.raises(ValueError, match="rising numbers, the first of them 0"):
            long.stream([scenes], (32, 48), 25)


@pytest.mark.parametrize(
    ("frames", "match"),
    [(80, "as 77 or 81"), (0, "as 1 or|as 1:"), (-3, "expected 4 k")],
)
def test_frames_that_do_not_fit(frames, match):
    pipeline = ClipPipeline(None, None, None, ClipSampling(), cell=16, stride=4)
    with pytest.raises(ValueError, match=match):
        pipeline.latent_frames(frames)
    assert [pipeline.latent_frames(frames) for frames in (1, 5, 81)] == [1, 2, 21]
    with pytest.raises(ValueError, match="it is the video; ask for 5"):
        pipeline.latent_frames(1, picture=True)


def test_sizes():
    pipeline = ClipPipeline(None, None, None, ClipSampling(), cell=16, stride=4)
    assert pipeline.asked(None, None) == (480, 832) and pipeline.asked(100, 100) == (100, 100)
    assert pipeline.asked(None, None, Image.new("RGB", (300, 310))) == (624, 624)
    assert pipeline.inside(100, 100) == (624, 624)
    free = ClipPipeline(None, None, None, ClipSampling(), None, cell=16, stride=4)
    assert free.inside(48, 80) == (48, 80)
    for call, match in (
        (lambda: free.inside(48, 81), "multiples of 16 pixels"), (lambda: free.asked(None, None), "no base size"),
        (lambda: pipeline.asked(3, None), "both or neither"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            call()


def test_errors(member):
    pipeline = ours(member, steps=1)
    with pytest.raises(ValueError, match="2 prompts and 3 seeds"):
        pipeline(PROMPTS, [1, 2, 3], frames=1, height=64, width=64)
    network, (told, against) = member[1][0], texts(member[1][0])
    begin = torch.randn(1, network.config.in_channels, 1, 4, 2)
    with pytest.raises(ValueError, match="negative is None"):
        clip_conditions(network, told, None, ClipSampling())
    longer = Prompt(torch.cat([against.features] * 2, 1), torch.ones(1, 12, dtype=torch.bool))
    with pytest.raises(ValueError, match="one max_tokens"):
        clip_conditions(network, told, longer, ClipSampling(null_mask="prompt"))
    conditions = clip_conditions(network, told, against, ClipSampling())
    with pytest.raises(ValueError, match="nothing is left"):
        clip_latents(network, begin, conditions, first=begin)
    with pytest.raises(ValueError, match="see renoise_stream"):
        clip_latents(network, begin, conditions, SAMPLING["longsana-2b-480p"])
    for wrong in (
        {"sampler": "ddim"}, {"null_mask": "none"}, {"steps": 0}, {"steps": (1000, 0)}, {"motion": 0.5}, {"motion": -1},
        {"sampler": "renoise", "guided": (0.1, 0.5)}, {"sampler": "renoise", "steps": (0, 1000)}, {"shift": 0},
        {"guidance": float("nan")},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="expected|at least|must be positive|leave it out"):
            ClipSampling(**wrong)
