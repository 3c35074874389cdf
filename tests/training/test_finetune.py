"""A SANA-WM release learns a robot's actions, at tiny size: data on disk -> adapter and world -> an environment."""

import json
import os
import signal

import gymnasium as gym
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from safetensors.torch import load_file

from sana_wm.models.transformer import SanaTransformer
from sana_wm.training.finetune import FinetuneRun, finetune
from sana_wm.training.finetune_stage import FinetuneTraining
from sana_wm.training.loop import Interrupted
from sana_wm.world import VideoWorld
from tests.models.tiny_sana_wm import randomised, tiny_release
from tests.training.robot import SIZE, TASK, write_squares

pytest.importorskip("diffusers")
pytest.importorskip("peft")
SMALL = [
    "finetune.clips.frames=17", "finetune.window=2", "finetune.denoising_steps=2", "finetune.loss.batch_size=2",
    "finetune.loop.steps=20", "finetune.loop.warmup=2", "finetune.loop.ema=0.9", "finetune.loop.optimizer.lr=1.0e-2",
    "finetune.loop.bf16=off", "data.starts=2", "device=cpu", "wandb.mode=disabled",
]  # fmt: skip
LORA = ["finetune=lora", "finetune.lora.rank=3", "finetune.lora.alpha=6"]
METHODS = {"lora": LORA, "full": ["finetune=full"]}
only_lora = pytest.mark.parametrize("trained", ["lora"], indirect=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """release/ and squares/: a checkpoint of cameras, and episodes of a square that is pushed about."""
    folder = tmp_path_factory.mktemp("finetune")
    tiny_release(folder / "release", depth=2, softmax_every=2)
    write_squares(folder / "squares")
    return folder


def configuration(place, out, *overrides):
    given = [f"init={place / 'release'}", f"data.root={place / 'squares'}", f"out={out}", *SMALL]
    with initialize_config_module("sana_wm.configs", version_base="1.3"):
        config = compose("finetune", [o for o in overrides if "finetune=" in o] + given
                         + [o for o in overrides if "finetune=" not in o])  # fmt: skip
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


@pytest.fixture(scope="module", params=METHODS)
def trained(request, place):
    """method, configuration, and the folder of a finished run."""
    out = place / request.param
    config = configuration(place, out, *METHODS[request.param])
    bytes_before = {path: path.read_bytes() for path in (place / "release").rglob("*.safetensors")}
    assert finetune(config) == out / "world"
    assert bytes_before == {path: path.read_bytes() for path in (place / "release").rglob("*.safetensors")}
    return request.param, config, out


def prepared(config) -> FinetuneRun:
    """A run whose data is there and whose checkpoint is open, with nothing trained."""
    job = FinetuneRun(config)
    job.encode()
    return job


def test_the_world_opens_and_steps(trained):
    method, config, out = trained
    env = gym.make("SanaWM-v0", world=out / "world")
    observation, _ = env.reset(seed=0)
    assert observation.shape == (*SIZE, 3) and env.action_space.shape == (8, 2)
    for _ in range(2):
        observation, *_ = env.step(env.action_space.sample())
    assert observation.shape == (*SIZE, 3) and observation.dtype == np.uint8
    world = VideoWorld.from_pretrained(out / "world")
    assert world.codec.names == ("right", "down") and world.codec.per_latent == 8
    assert world.config.task == TASK and world.config.fps == 10 and world.config.max_episode_steps == 4
    assert len(world.config.timesteps) == 3 and len(world.starts) == 2
    c = world.transformer.config
    assert (c.temporal, c.chunk_size, c.first_chunk_plus_one, c.window, c.sink) == ("chunk_causal", 1, False, 2, 1)


def test_training_clips_are_predicted_better(trained):
    method, config, out = trained
    job = prepared(config | {"out": str(out)})
    rows = job.clips.of(job.episodes.split["train"])
    before = job.training().held_out(rows)
    job.transformer = VideoWorld.from_pretrained(out / "world").transformer
    after = job.training().held_out(rows)
    assert after < 0.9 * before
    said = json.loads((out / "measured.json").read_text())
    assert said["flow_loss"]["after"]["validation"] < said["flow_loss"]["before"]["validation"]
    assert set(said["psnr"]) == {"world", "copy", "autoencoder"} and said["steps"] == 20
    text = (out / "world" / "card.md").read_text()
    assert f"{said['psnr']['world']:.2f}" in text and "right, down" in text and method in text


def test_actions_are_listened_to_after_training(trained):
    _, config, out = trained
    world = VideoWorld.from_pretrained(out / "world")
    image = world.starts.frames[:1]
    low, high = world.codec.low, world.codec.high
    steps = [np.broadcast_to(bound, (1, 8, 2)).copy() for bound in (low, high)]
    made = [world.step(world.begin(image, seeds=[3]), step)[1].latents for step in steps]
    assert (made[0] - made[1]).abs().max() > 1e-4


def test_what_is_trained_is_what_the_world_does(place, tmp_path):
    """The velocity of every frame of a clip, against a clean past in one pass, is that of the world's own stream."""
    job = prepared(configuration(place, tmp_path, *LORA))
    randomised(job.transformer)
    training: FinetuneTraining = job.training()
    row = 1
    clip = torch.from_numpy(job.latents[row][None].astype(np.float32))
    generator = torch.Generator().manual_seed(0)
    noisy, sigma = torch.randn(clip[:, :, 1:].shape, generator=generator), torch.rand(1, 2, generator=generator)
    actions = torch.from_numpy(training.actions[row][None])
    with torch.no_grad():
        trained = training.predict(
            clip, clip[:, :, :-1], noisy, sigma, actions, torch.from_numpy(training.texts[[row]])
        )

    world = VideoWorld(job.world_config(), job.transformer, job.vae, job.codec, prompts=job.prompts)
    (frames,), steps = job.raw(np.array([row])), job.clips.actions(job.episodes, job.codec)[row][None]
    for k in range(2):
        state = world.begin(frames[None, : 8 * k + 1], steps[:, :k], prompt=TASK)
        torch.testing.assert_close(state.latent, clip[:, :, k], rtol=0, atol=2e-3)  # kept as float16
        _, _, action = world._advance_camera(state.carried, torch.from_numpy(steps[:, k]))
        poses = state.carried["pose"][:, None].expand(-1, 9, -1, -1)
        told = world._conditions(state.carried, poses, action)
        with torch.no_grad():
            deployed = world.transformer(
                noisy[:, :, k : k + 1], 1000 * sigma[:, k : k + 1], told.text, camera=told.camera,
                plucker=told.plucker, actions=told.actions, state=state.stream,
            ).velocity  # fmt: skip
        torch.testing.assert_close(deployed, trained[:, :, k : k + 1], rtol=0, atol=5e-3)
        assert trained[:, :, k].abs().max() > 0.1


def test_clips_stay_inside_episodes_and_actions_lead_to_their_latent(place, tmp_path):
    job = prepared(configuration(place, tmp_path, *LORA, "finetune.clips.every=9"))
    clips, episodes = job.clips, job.episodes
    assert clips.start.tolist() == [0, 9, 18, 23, 0, 9, 18, 23, 0, 9, 16, 0, 9, 16]
    assert clips.episode.tolist() == [0] * 4 + [1] * 4 + [2] * 3 + [3] * 3
    actions = clips.actions(episodes, job.codec)
    assert actions.shape == (14, 2, 8, 2)
    pictures = episodes.frames(1)
    for row, start in ((4, 0), (6, 18)):
        for i in (1, 2):
            expected = episodes.actions[1][start + 8 * (i - 1) : start + 8 * i]
            assert np.array_equal(actions[row, i - 1], expected)
        latents = job.vae.encode(pictures[None, start : start + 17])[0].numpy()
        np.testing.assert_allclose(job.latents[row], latents, atol=2e-3)
    assert set(job.training().train) == set(range(8))  # the last two episodes are held out


def test_encoding_goes_on_where_it_was_stopped(place, tmp_path, monkeypatch):
    config = configuration(place, tmp_path / "whole", *LORA)
    whole = prepared(config).latents
    job = FinetuneRun(config | {"out": str(tmp_path / "cut")})
    encode, count = job.vae.encode, []

    def stopped(frames):
        count.append(1)
        if len(count) == 6:
            raise KeyboardInterrupt
        return encode(frames)

    monkeypatch.setattr(job.vae, "encode", stopped)
    with pytest.raises(KeyboardInterrupt):
        job.encode()
    assert not (tmp_path / "cut" / "latents").exists()
    count.clear()
    again = prepared(config | {"out": str(tmp_path / "cut")})
    assert np.array_equal(again.latents, whole)
    monkeypatch.setattr(again.vae, "encode", None)  # everything is there: nothing is encoded
    again.encode()
    job.encode()
    assert len(count) == 0 and len(whole) == 10


def test_interrupted_and_run_again_is_the_uninterrupted_run(trained, place, tmp_path, monkeypatch):
    method = trained[0]
    config = configuration(place, tmp_path / "run", *METHODS[method])
    losses = FinetuneTraining.losses

    def killed(self, step, progress):
        if step == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return losses(self, step, progress)

    monkeypatch.setattr(FinetuneTraining, "losses", killed)
    with pytest.raises(Interrupted, match="stage finetune stopped at step 8; run the same command"):
        finetune(config)
    monkeypatch.undo()
    checkpoint = tmp_path / "run" / "finetune.safetensors"
    base = sum(
        t.nbytes for t in load_file(place / "release" / "transformer" / "diffusion_pytorch_model.safetensors").values()
    )
    assert method == "full" or checkpoint.stat().st_size < base  # what does not change is not saved
    finetune(config)
    made, expected = (
        load_file(o / "world" / "transformer" / "model.safetensors") for o in (tmp_path / "run", trained[2])
    )
    assert made.keys() == expected.keys() and all(torch.equal(made[name], expected[name]) for name in made)
    with pytest.raises(ValueError, match="was begun with other settings: finetune.window was 2, now 3"):
        finetune(configuration(place, tmp_path / "run", *METHODS[method], "finetune.window=3"))


@pytest.fixture
def adapted(trained, place):
    """The base with actions, the world's network, and the folder of the adapter."""
    out = trained[2]
    merged = VideoWorld.from_pretrained(out / "world").transformer
    base = SanaTransformer.from_pretrained(
        place / "release" / "transformer", grid=(2, 3), action_dim=16, temporal="chunk_causal", window=2, sink=1
    )
    return base, merged, out / "adapter"


@only_lora
def test_the_adapter_is_peft_s_and_gives_what_the_merged_weights_give(adapted, place):
    from peft import PeftModel

    base, merged, folder = adapted
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(place / "release") and settings["r"] == 3
    names = load_file(folder / "adapter_model.safetensors")
    assert any("action_proj" in name for name in names) and any("action_embedder.linear_1" in name for name in names)
    assert any("text_attn.kv.lora_A" in name for name in names) and any("ffn.point.lora_B" in name for name in names)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    told = {
        "text": torch.randn(1, 4, 8), "camera": torch.eye(4).flatten().expand(1, 3, 16).clone(),
        "plucker": torch.randn(1, 48, 3, 2, 3), "actions": torch.randn(1, 3, 16),
    }  # fmt: skip
    told["camera"] = torch.cat([told["camera"], torch.tensor([3.0, 3, 1, 0.5]).expand(1, 3, 4)], dim=-1)
    latents, timestep = torch.randn(1, 6, 3, 2, 3), torch.full((1, 3), 400.0)
    with torch.no_grad():
        model = PeftModel.from_pretrained(base, folder).eval()
        torch.testing.assert_close(
            model(latents, timestep, **told).velocity, merged(latents, timestep, **told).velocity, rtol=0, atol=1e-5
        )
        plain = SanaTransformer.from_pretrained(place / "release" / "transformer", grid=(2, 3), action_dim=16)
        assert not torch.allclose(plain(latents, timestep, **told).velocity, model(latents, timestep, **told).velocity)

    scale, targets = 6 / 3, {name.split(".lora_A")[0] for name in names if ".lora_A" in name}
    targets = {target.removeprefix("base_model.model.") for target in targets}
    for name, tensor in merged.state_dict().items():
        module = name.removesuffix(".weight")
        if module in targets:
            pair = [names[f"base_model.model.{module}.lora_{part}.weight"] for part in "AB"]
            torch.testing.assert_close(tensor, before[name] + scale * pair[1] @ pair[0], rtol=0, atol=1e-6)
            assert pair[1].abs().max() > 0
        elif "action" not in name:
            assert torch.equal(tensor, before[name]), name  # the base is not touched


@only_lora
def test_low_rank_updates_reach_every_linear_map_of_attention_and_ffn(adapted):
    base, _, folder = adapted
    names = load_file(folder / "adapter_model.safetensors")
    targets = {n.removeprefix("base_model.model.").split(".lora_A")[0] for n in names if ".lora_A" in n}
    linear = {
        name
        for name, module in base.named_modules()
        if isinstance(module, torch.nn.Linear) and any(p in name for p in (".attn.", ".text_attn.", ".ffn."))
    }
    assert targets == {n for n in linear if not n.endswith(("beta_proj", "gate_proj"))}  # gates of a few heads


def test_one_layout_for_robots_of_different_bodies(place, tmp_path):
    unified = ["data.layout=unified_robot80", "data.mapping={right: right_position_x, down: right_position_y}"]
    out = finetune(configuration(place, tmp_path, *LORA, *unified, "finetune.loop.steps=2"))
    world = VideoWorld.from_pretrained(out)
    assert world.codec.dims == (36, 37) and world.transformer.config.action_dim == 720
    state = world.begin(world.starts.frames, seeds=[0, 1])
    world.step(state, np.zeros((2, 8, 2), np.float32))
    # another robot goes on from there: its columns have other places, the network is the same
    again = configuration(place, tmp_path / "next", *LORA, "data.layout=unified_robot80", "finetune.loop.steps=1",
                          "data.mapping={right: left_joint_0, down: left_joint_1}", f"init={out}")  # fmt: skip
    assert VideoWorld.from_pretrained(finetune(again)).codec.dims == (0, 1)
    with pytest.raises(ValueError, match=r"takes other actions already, this dataset's make 16 numbers a step"):
        FinetuneRun(configuration(place, tmp_path / "x", *LORA, f"init={out}"))


def test_frames_of_any_size_are_cut_to_whole_latent_cells(place, tmp_path, capsys):
    write_squares(tmp_path / "odd", size=(76, 90))
    overrides = [f"data.root={tmp_path / 'odd'}", "finetune.loop.steps=1"]
    world = VideoWorld.from_pretrained(finetune(configuration(place, tmp_path / "run", *LORA, *overrides)))
    assert world.config.resolution == (64, 96)
    assert "76x90 scaled to cover 64x96" in " ".join(capsys.readouterr().out.split())


def test_bfloat16_base_and_recomputed_activations(place, tmp_path):
    """What is trained stays float32 beside a base of half the precision, and the gradients are those without both."""
    rates = {}
    for name, overrides in {
        "plain": ["finetune.checkpointing=false"], "recomputed": ["finetune.checkpointing=true"],
        "half": ["finetune.base=bfloat16", "finetune.loop.bf16=on"],
    }.items():  # fmt: skip
        job = prepared(configuration(place, tmp_path / name, *LORA, *overrides, "finetune.loop.steps=3"))
        job.train()
        rates[name] = job.transformer.blocks[0].ffn.point.weight.float()
    assert job.saved_dtype == torch.float32  # of the checkpoint, whatever it was trained beside
    saved = load_file(tmp_path / "half" / "finetune.safetensors")
    assert {t.dtype for name, t in saved.items() if name.startswith("model.")} == {torch.float32}
    torch.testing.assert_close(rates["plain"], rates["recomputed"], rtol=0, atol=1e-6)
    torch.testing.assert_close(rates["plain"], rates["half"], rtol=0, atol=3e-2)


def test_a_task_text_without_an_encoder(place, tmp_path):
    import shutil

    shutil.copytree(place / "release", tmp_path / "bare", ignore=shutil.ignore_patterns("text_encoder", "tokenizer"))
    config = configuration(place, tmp_path / "run", *LORA, f"init={tmp_path / 'bare'}")
    with pytest.raises(ValueError, match="has no text_encoder/ to encode the dataset's task 'push the square' with"):
        finetune(config)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.columns.action=torque"], "has no column 'torque' of actions; it has .*: name one with data.columns"),
        (
            ["data.columns.camera=front"],
            r"data.columns.camera='front': .* has the cameras \['observation.images.side'\]",
        ),
        (["data.resolution=[60,96]"], r"data.resolution \(60, 96\): expected multiples of 32 pixels"),
        (["finetune.clips.frames=16"], r"finetune.clips.frames=16: expected 8 k \+ 1"),
        (["finetune.clips.frames=41"], "the longest of 2 train episodes has 40 frames, a clip 41"),
        (["finetune.clips.cache_gb=1.0e-9"], "finetune.clips.cache_gb=1e-09 allows less: raise it, or take fewer"),
        (["data.episodes=2"], "data.episodes=2: expected 3 to 4"),
        (["data.bounds.high=1.0"], "data.bounds: right is 2 in the dataset"),
        (["data.mapping={right: camera_0}"], "belong to data.layout=unified_robot80"),
        (["data.layout=unified_robot80"], r"columns \['right', 'down'\] have no place"),
        (["init=nowhere"], "'nowhere' is neither a folder nor a hub repository"),
        (["+finetune.rate=3"], "FinetuneSettings: unknown settings .'rate'."),
        (["+finetune.loss.size=3"], "FinetuneLoss: unknown settings .'size'."),
        (["+data.bound=3"], "RobotData: unknown settings .'bound'."),
        (["finetune.preset=fast"], "finetune.preset='fast': expected one of sana-wm-bidirectional"),
        (["finetune.window=0"], "finetune.window=0"),
        (["weights=float8"], "weights='float8': expected auto or one of float16"),
    ],
)
def test_mistakes_surface_before_training_in_one_line(place, tmp_path, overrides, message):
    with pytest.raises(ValueError, match=message) as error:
        finetune(configuration(place, tmp_path / "run", *LORA, *overrides))
    assert not (tmp_path / "run" / "finetune.safetensors").exists()
    assert "\n" not in str(error.value)


def test_a_dataset_without_a_rate_is_refused(place, tmp_path):
    write_squares(tmp_path / "data", lengths=(17, 17, 17))
    info = json.loads((tmp_path / "data" / "meta" / "info.json").read_text())
    (tmp_path / "data" / "meta" / "info.json").write_text(json.dumps(info | {"fps": 0}))
    with pytest.raises(ValueError, match="fps is 0, expected a positive number"):
        finetune(configuration(place, tmp_path / "run", *LORA, f"data.root={tmp_path / 'data'}"))


@pytest.mark.parametrize(("method", "hint"), [("lora", "ltx,lora"), ("full", "ltx")])
def test_packages_that_are_not_there_are_named_with_their_extras(place, tmp_path, monkeypatch, method, hint):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=rf"pip install 'sana-wm\[{hint}\]'"):
        FinetuneRun(configuration(place, tmp_path, *METHODS[method]))
