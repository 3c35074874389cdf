"""One phase of making a picture, alone in a process, with random weights of the published sizes: the memory it takes.

``python -m benchmarks.memory_phase '{"phase": "transformer", "model": "sana-600m"}'`` prints bytes as JSON: ``base``
after the imports, ``loaded`` with the weights, ``peak`` of the work. Linux only: it reads /proc.
"""

import json
import re
import sys
import time
from pathlib import Path

import torch
from torch import nn

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
TEXT_TOKENS, INSTRUCTED_TOKENS = 300, 600


def resident(what: str = "VmRSS") -> int:
    """Bytes of this process: now, or with VmHWM the most since the last :func:`reset`."""
    return int(re.search(rf"{what}:\s+(\d+) kB", STATUS.read_text())[1]) * 1024


def reset() -> None:
    CLEAR.write_text("5")


def filled(network: nn.Module, dtype: torch.dtype, quantise: str | None, embeddings: bool = False) -> nn.Module:
    """Random weights in a network that is on the meta device, one tensor at a time."""
    from sana_wm.generation.memory import release_memory
    from sana_wm.models.quantised import fill, prepare

    wanted = {name: tensor.shape for name, tensor in network.state_dict().items()}
    if quantise is not None:
        prepare(network, quantise, embeddings)
    torch.manual_seed(0)
    for name, shape in wanted.items():
        spread = 1.0 if len(shape) < 2 else shape[1:].numel() ** -0.5
        fill(network, {name: torch.empty(shape, dtype=dtype).uniform_(-spread, spread)}, dtype)
    release_memory()
    return network.requires_grad_(False).eval()


def transformer(model, side=1024, dtype="bfloat16", quantise=None, lanes=1, frames=1, grid=None, depth=None):
    """One denoising step, with guidance where the member has it outside of its weights."""
    from sana_wm.generation.image_sampling import SAMPLING, Prompt, Sampling, image_latents, sprint_latents
    from sana_wm.models.presets import preset
    from sana_wm.models.transformer import SanaTransformer

    config = preset(model, **({} if depth is None else {"depth": depth}))
    base, dtype = resident(), getattr(torch, dtype)
    with torch.device("meta"):
        network = SanaTransformer(config)
    network = filled(network, dtype, quantise)
    loaded = resident()
    reset()
    grid = (side // 32, side // 32) if grid is None else tuple(grid)
    prompt = Prompt(torch.randn(lanes, TEXT_TOKENS, config.text_dim), torch.ones(lanes, TEXT_TOKENS, dtype=torch.bool))
    negative = Prompt(*(part[:1] for part in prompt))
    began = time.monotonic()
    if model not in SAMPLING:
        noise = torch.randn(2 * lanes, config.in_channels, frames, *grid)
        text = Prompt(*(part.repeat(2, *[1] * (part.ndim - 1)) for part in prompt))
        with torch.no_grad():
            network(noise, torch.full((2 * lanes,), 500.0), text.features, text.mask)
    else:
        noise, sampler = torch.randn(lanes, config.in_channels, *grid), SAMPLING[model].sampler
        if sampler == "scm":
            sprint_latents(network, noise, prompt, Sampling("scm", steps=1), lambda _: noise)
        else:
            image_latents(network, noise, prompt, negative, Sampling(steps=1))
    return base, loaded, time.monotonic() - began


def autoencoder(side=1024, tile=None, dtype="bfloat16", model="f32c32-sana-1.1", encode=False):
    """Decode one picture (or encode it), and turn it into bytes as the command does."""
    from sana_wm.generation.image_file import to_pictures
    from sana_wm.models.dc_ae import DCAE, dcae_preset

    base, dtype = resident(), getattr(torch, dtype)
    with torch.device("meta"):
        network = DCAE(dcae_preset(model))
    network = filled(network, dtype, None)
    loaded = resident()
    reset()
    began = time.monotonic()
    with torch.no_grad():
        if encode:
            network.encode(torch.rand(1, 3, side, side).to(dtype), tile=tile)
        else:
            latents = torch.randn(1, network.config.latent_channels, side // 32, side // 32, dtype=dtype)
            to_pictures(network.decode(latents, tile=tile).float())
    return base, loaded, time.monotonic() - began


def text_encoder(dtype="bfloat16", quantise=None, tokens=INSTRUCTED_TOKENS, layers=None):
    """Gemma-2-2B over one prompt with its instruction."""
    from transformers import AutoModel, Gemma2Config

    from sana_wm.models.quantised_text import build_buffers

    config = Gemma2Config(**({} if layers is None else {"num_hidden_layers": layers}))
    base, dtype = resident(), getattr(torch, dtype)
    with torch.device("meta"):
        network = AutoModel.from_config(config, dtype=dtype)
    network = filled(network, dtype, quantise, embeddings=True)
    if quantise is None:
        network.embed_tokens.embed_scale = torch.tensor(config.hidden_size**0.5)
    build_buffers(network)
    loaded = resident()
    reset()
    began = time.monotonic()
    with torch.no_grad():
        network(input_ids=torch.randint(0, config.vocab_size, (1, tokens)), attention_mask=torch.ones(1, tokens))
    return base, loaded, time.monotonic() - began


PHASES = {"transformer": transformer, "autoencoder": autoencoder, "text encoder": text_encoder}


def main() -> None:
    torch.set_num_threads(1)
    asked = json.loads(sys.argv[1])
    base, loaded, seconds = PHASES[asked.pop("phase")](**asked)
    print(json.dumps({"base": base, "loaded": loaded, "peak": resident("VmHWM"), "seconds": round(seconds, 1)}))


if __name__ == "__main__":
    main()
