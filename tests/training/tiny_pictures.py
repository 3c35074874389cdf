"""A folder of small pictures with captions, and a text-to-image release to fine-tune, both in miniature."""

import json

import numpy as np
from PIL import Image

from tests.generation.tiny_image import autoencoders, diffusers_transformer
from tests.models.tiny_sana_wm import tiny_gemma2, tiny_tokenizer

CELL, SIDE = 8, 6  # pixels of a latent cell, cells of the base
BASE = CELL * SIDE
COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (20, 160, 40)}
SIZES = [(50, 51), (48, 60), (97, 49), (64, 64)]  # height and width; the nearest bins are 48x48, 40x56, 64x32, 48x48


def picture(colour: str, height: int, width: int, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(-20, 20, (height, width, 3))
    return Image.fromarray((np.array(COLOURS[colour]) + noise).clip(0, 255).astype(np.uint8))


def write_pictures(folder, count: int = 12):
    """``count`` pictures of one colour each, PNG, JPEG and WebP in turn; every third one has two captions."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        colour, suffix = list(COLOURS)[number % 3], (".png", ".jpg", ".webp")[number % 3]
        picture(colour, *SIZES[number % 4], number).save(folder / f"{number:02d}{suffix}")
        lines = [f"All {colour}.", f"A {colour} picture."] if number % 3 == 0 else [f"All {colour}."]
        (folder / f"{number:02d}.txt").write_text("\n".join(lines) + "\n\n")
    return folder


def tiny_release(folder, seed: int = 0):
    """transformer/, vae/, text_encoder/, tokenizer/, scheduler/ and the index, of base 48."""
    import diffusers

    diffusers_transformer(seed=seed, sample_size=SIDE).save_pretrained(folder / "transformer")
    autoencoders(stages=4)[0].save_pretrained(folder / "vae")
    tiny_gemma2().save_pretrained(folder / "text_encoder")
    tiny_tokenizer().save_pretrained(folder / "tokenizer")
    settings = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 2.5}
    diffusers.DPMSolverMultistepScheduler(**settings).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "SanaPipeline", "text_encoder": ["transformers", "Gemma2Model"],
        "tokenizer": ["transformers", "GemmaTokenizer"], "transformer": ["diffusers", "SanaTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderDC"], "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
    }  # fmt: skip
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
