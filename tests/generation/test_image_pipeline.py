"""Images against diffusers' SanaPipeline and SanaSprintPipeline with the same small random weights."""

import numpy as np
import pytest
import torch
from PIL import Image

from sana_wm.diffusion.dpm_solver import dpm_schedule, integer_timestep
from sana_wm.generation.image import ImagePipeline
from sana_wm.generation.image_sampling import SAMPLING, Prompt, Sampling, image_latents, sprint_latents
from sana_wm.models.transformer import SanaTransformer
from tests.generation.tiny_image import CHANNELS, Wrapped, autoencoders, diffusers_transformer, encoder

diffusers = pytest.importorskip("diffusers")
PROMPTS, NEGATIVE = ["A small Robot ", "two red cubes"], "blurry"
SIZE, CELLS = (64, 96), (8, 12)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def levels(pictures):
    return np.stack([np.asarray(picture).astype(int) for picture in pictures])


def assert_alike(got, expected):
    """Within 2 of 255 levels, of pictures that are not of one colour."""
    got, expected = levels(got), levels(expected)
    assert got.shape == expected.shape and expected.std() > 3
    assert np.abs(got - expected).max() <= 2


def quiet(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def vaes():
    return autoencoders()


@pytest.mark.parametrize("guidance", [4.5, 1.0])
@pytest.mark.parametrize(("steps", "shift"), [(5, 3.0), (2, 4.0)])
def test_sana_equals_the_pipeline(vaes, steps, shift, guidance):
    network, text = diffusers_transformer(), encoder()
    scheduler = diffusers.DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=shift
    )
    theirs = quiet(diffusers.SanaPipeline(text.tokenizer, text.model, vaes[0], network, scheduler))
    noise = randn(2, CHANNELS, *CELLS)
    expected = theirs(
        PROMPTS, negative_prompt=NEGATIVE, height=SIZE[0], width=SIZE[1], num_inference_steps=steps,
        guidance_scale=guidance, latents=noise, use_resolution_binning=False,
    ).images  # fmt: skip
    sampling = Sampling(steps=steps, shift=shift, guidance=guidance, null_mask="negative")
    ours = ImagePipeline(Wrapped(network), vaes[1], text, sampling, None, lowercase=True)
    latents = ours.latents(PROMPTS, SIZE, negative=NEGATIVE, noise=noise)
    assert_alike(ours.decode(latents, *SIZE), expected)


def test_sizes_are_binned_as_in_the_pipeline():
    network, text, (their_vae, our_vae) = diffusers_transformer(sample_size=16), encoder(), autoencoders(stages=6)
    scheduler = diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
    theirs = quiet(diffusers.SanaPipeline(text.tokenizer, text.model, their_vae, network, scheduler))
    noise = randn(1, CHANNELS, 13, 19)  # 416 x 608
    expected = theirs(PROMPTS[0], height=130, width=190, num_inference_steps=1, latents=noise).images
    sampling = Sampling(steps=1, shift=1.0, null_mask="negative")
    ours = ImagePipeline(Wrapped(network), our_vae, text, sampling, 512, lowercase=True)
    assert ours.inside(130, 190) == (416, 608)
    latents = ours.latents(PROMPTS[:1], (416, 608), noise=noise)
    assert_alike(ours.decode(latents, 130, 190), expected)


def sprint_pipeline(vaes, member=None):
    network, text = diffusers_transformer(sprint=True), encoder("sprint")
    build = diffusers.SanaSprintPipeline if member is None else member
    theirs = quiet(build(text.tokenizer, text.model, vaes[0], network, diffusers.SCMScheduler()))

    def ours(**settings):
        return ImagePipeline(Wrapped(network), vaes[1], text, Sampling("scm", **settings), None, lowercase=True)

    return theirs, ours


def drawn_after(first, seed=3):
    """Noise that comes from one generator, as diffusers draws it: its first draw, then those of the steps."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(first, generator=generator)
    return start, lambda step: torch.randn(first, generator=generator)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_sprint_equals_the_pipeline(vaes, steps):
    theirs, ours = sprint_pipeline(vaes)
    expected = theirs(
        PROMPTS, height=SIZE[0], width=SIZE[1], num_inference_steps=steps, guidance_scale=4.0,
        intermediate_timesteps=1.3 if steps == 2 else None, generator=torch.Generator().manual_seed(3),
        use_resolution_binning=False,
    ).images  # fmt: skip
    noise, fresh = drawn_after((2, CHANNELS, *CELLS))
    pipeline = ours(steps=steps, guidance=4.0)
    latents = pipeline.latents(PROMPTS, SIZE, noise=noise, noise_of_step=fresh)
    assert_alike(pipeline.decode(latents, *SIZE), expected)


@pytest.mark.parametrize(("steps", "strength"), [(1, 1.0), (2, 1.0), (4, 0.5), (4, 0.75)])
def test_sprint_from_a_picture_equals_the_pipeline(vaes, steps, strength):
    theirs, ours = sprint_pipeline(vaes, diffusers.SanaSprintImg2ImgPipeline)
    pixels = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    expected = theirs(
        PROMPTS, image=picture, strength=strength, height=SIZE[0], width=SIZE[1], num_inference_steps=steps,
        intermediate_timesteps=1.3 if steps == 2 else None, generator=torch.Generator().manual_seed(3),
        use_resolution_binning=False,
    ).images  # fmt: skip
    noise, fresh = drawn_after((2, CHANNELS, *CELLS))
    pipeline = ours(steps=steps)
    latents = pipeline.latents(PROMPTS, SIZE, picture=picture, strength=strength, noise=noise, noise_of_step=fresh)
    assert_alike(pipeline.decode(latents, *SIZE), expected)


def test_sprint_with_its_defaults_keeps_some_of_the_picture(vaes):
    _, ours = sprint_pipeline(vaes)
    pipeline, made = ours(), []
    for value in (40, 210):
        picture = Image.new("RGB", SIZE[::-1], (value, value, value))
        made.append(pipeline.latents(PROMPTS, SIZE, seeds=5, picture=picture))
    assert (made[0] - made[1]).abs().mean() > 1e-3 * made[0].std()  # from pure noise: 1e-6


# --- what the network is asked ---------------------------------------------------------------------------------------


def texts():
    masks = torch.arange(6) < torch.tensor([[5], [2]])
    told = Prompt(randn(2, 6, 8, seed=1), masks)
    return told, Prompt(randn(1, 6, 8, seed=2), torch.arange(6)[None] < 3)


@pytest.mark.parametrize("null_mask", ["prompt", "negative"])
def test_masks_of_guidance(null_mask):
    net, (told, against) = Wrapped(diffusers_transformer()), texts()
    image_latents(net, randn(2, CHANNELS, 3, 2), told, against, Sampling(steps=1, null_mask=null_mask))
    ((_, mask, _),) = net.calls
    assert torch.equal(mask[2:], told.mask)
    assert torch.equal(mask[:2], told.mask if null_mask == "prompt" else against.mask.expand(2, -1))


def test_guidance_is_what_its_formula_says_and_only_where_asked():
    net, (told, against), noise = Wrapped(diffusers_transformer()), texts(), randn(2, CHANNELS, 3, 2)
    sampling = Sampling(steps=1, guidance=3.0, guided=(0.5, 1.0))
    (sigma,) = dpm_schedule(1, 3.0)[:-1].tolist()
    time = torch.full((2,), integer_timestep(sigma))

    @torch.no_grad()
    def velocity(features):
        return net(noise[:, :, None], time, (features, told.mask)).velocity[:, :, 0]

    with_prompt, without = velocity(told.features), velocity(against.features.expand(2, -1, -1))
    got = image_latents(net, noise, told, against, sampling)
    torch.testing.assert_close(got, noise - sigma * (without + 3 * (with_prompt - without)))
    never = image_latents(net, noise, told, against, Sampling(steps=1, guidance=3.0, guided=(0.0, 0.2)))
    torch.testing.assert_close(never, noise - sigma * with_prompt)
    torch.testing.assert_close(image_latents(net, noise, told, None, Sampling(steps=1, guidance=1.0)), never)


def test_sprint_is_told_its_time_and_guidance():
    net, (told, _), seen = Wrapped(diffusers_transformer(sprint=True)), texts(), []
    fresh = lambda step: randn(2, CHANNELS, 3, 2, seed=step)  # noqa: E731
    sampling = Sampling("scm", steps=2, guidance=4.5)
    sprint_latents(net, fresh(0), told, sampling, fresh, progress=lambda *done: seen.append(done))
    (first, _, guidance), (second, _, _) = net.calls
    torch.testing.assert_close(guidance, torch.full((2,), 0.45))
    torch.testing.assert_close(first, torch.ones(2), atol=1e-5, rtol=0)
    expected = torch.sin(torch.tensor(1.3)) / (torch.sin(torch.tensor(1.3)) + torch.cos(torch.tensor(1.3)))
    torch.testing.assert_close(second, expected.expand(2))
    assert seen == [(1, 2), (2, 2)]


def test_the_time_is_in_the_networks_units():
    plain, scaled = (Wrapped(diffusers_transformer(timestep_scale=scale)) for scale in (1.0, 0.001))
    for net in (plain, scaled):
        image_latents(net, randn(2, CHANNELS, 3, 2), *texts(), Sampling(steps=2))
    assert plain.calls[0][0].max() > 100
    for (one, *_), (other, *_) in zip(plain.calls, scaled.calls, strict=True):
        torch.testing.assert_close(other.float(), 0.001 * one.float())


@pytest.mark.parametrize("sprint", [False, True])
def test_our_transformer_in_place_of_theirs(tmp_path, sprint):
    theirs, (told, against) = diffusers_transformer(sprint), texts()
    theirs.save_pretrained(tmp_path)
    noise = randn(2, CHANNELS, 5, 3)

    def latents(net):
        if sprint:
            fresh = lambda step: randn(2, CHANNELS, 5, 3, seed=step)  # noqa: E731
            return sprint_latents(net, noise, told, Sampling("scm", steps=3), fresh)
        return image_latents(net, noise, told, against, Sampling(steps=4))

    got, expected = latents(SanaTransformer.from_pretrained(tmp_path)), latents(Wrapped(theirs))
    assert (expected - noise).std() > 0.1
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=2e-5)


# --- the pipeline's own promises -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sprint", [False, True])
def test_a_picture_is_a_function_of_its_prompt_and_seed(vaes, sprint):
    sampling = Sampling("scm", steps=2) if sprint else Sampling(steps=2)
    pipeline = ImagePipeline(Wrapped(diffusers_transformer(sprint)), vaes[1], encoder(), sampling, None)
    how = {"height": 40, "width": 24}
    together = pipeline([*PROMPTS, PROMPTS[0]], [5, 5, 6], **how)
    assert [picture.size for picture in together] == [(24, 40)] * 3
    assert np.abs(levels(pipeline(PROMPTS[1:], [5], **how)) - levels(together[1:2])).max() <= 1
    assert np.abs(levels(together[:1]) - levels(together[2:])).mean() > 3
    if sprint:
        changed = pipeline(PROMPTS[:1], 5, picture=together[2], strength=0.5, **how)
        assert np.abs(levels(changed) - levels(together[:1])).mean() > 1


def test_errors(vaes):
    pipeline = ImagePipeline(Wrapped(diffusers_transformer()), vaes[1], encoder(), Sampling(steps=1), None)
    picture = Image.new("RGB", (8, 8))
    with pytest.raises(ValueError, match="multiples of 8"):
        pipeline(PROMPTS, height=30, width=64)
    with pytest.raises(ValueError, match="both or neither"):
        pipeline(PROMPTS, height=64)
    with pytest.raises(ValueError, match="no base size"):
        pipeline(PROMPTS)
    with pytest.raises(ValueError, match="2 prompts and 3 seeds"):
        pipeline(PROMPTS, [1, 2, 3], height=64, width=64)
    with pytest.raises(ValueError, match="for Sprint"):
        pipeline(PROMPTS, height=64, width=64, picture=picture)
    told, against = texts()
    with pytest.raises(ValueError, match="negative is None"):
        image_latents(pipeline.transformer, randn(2, CHANNELS, 2, 2), told)
    with pytest.raises(ValueError, match="3 lanes"):
        image_latents(pipeline.transformer, randn(1, CHANNELS, 2, 2), Prompt(randn(3, 6, 8), torch.ones(3, 6).bool()))
    with pytest.raises(ValueError, match="one max_tokens"):
        longer = Prompt(randn(1, 7, 8), torch.ones(1, 7).bool())
        image_latents(pipeline.transformer, randn(2, CHANNELS, 2, 2), told, longer)
    with pytest.raises(ValueError, match="fresh noise"):
        sprint_latents(pipeline.transformer, randn(2, CHANNELS, 2, 2), told)
    for wrong in ({"sampler": "ddim"}, {"null_mask": "none"}, {"times": (1.5, 0.0)}, {"steps": 0}):
        with pytest.raises(ValueError, match="expected|sampler|at least"):
            Sampling(**wrong)
    assert SAMPLING["sana-600m"].shift == 4.0 and SAMPLING["sana-1600m-4k"].shift == 6.0
