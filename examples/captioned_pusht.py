"""A small set for text-to-image: pictures of the PushT simulator told in words, a small autoencoder and text encoder.

python examples/captioned_pusht.py --out runs/captioned-pusht
python -m sana_wm.train stage=image data=runs/captioned-pusht/pictures vae=runs/captioned-pusht/vae \
    text_encoder=runs/captioned-pusht/text_encoder tokenizer=runs/captioned-pusht/tokenizer ...

The autoencoder learns from the pictures for some minutes; the text encoder is a Gemma-2 with random weights, whose
features still tell texts apart. See docs/train_images.md, and examples/captions_followed.py for what is measured.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sana_wm.data.picture_files import list_pictures, open_picture
from sana_wm.generation.aspect import nearest_bin
from sana_wm.generation.image_file import to_pixels
from sana_wm.models.dc_ae import DCAE, DCAEConfig
from sana_wm.models.prompt_encoder import instruction
from sana_wm.training.tokenizer_stage import pixel_losses

BASE, CELL = 64, 16
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")
BLOCK = (119, 136, 153)


def place_of(picture: np.ndarray, thing: str) -> tuple[float, float] | None:
    """Centre of what has the thing's colour, in shares (down, right) of a picture uint8 (H, W, 3); None: not there.

    The block's colour has to be near; of the disc it is enough to be far bluer than red, as nothing else is.
    """
    red, blue = (picture[..., channel].astype(np.float64) for channel in (0, 2))
    near = np.abs(picture.astype(np.float64) - BLOCK).sum(-1) < 60 if thing == "block" else blue - red > 60
    if near.sum() < 4:
        return None
    rows, columns = np.nonzero(near)
    return (rows.mean() + 0.5) / picture.shape[0], (columns.mean() + 0.5) / picture.shape[1]


def cell_of(place: tuple[float, float]) -> tuple[int, int]:
    """Which of 3 x 3 fields."""
    return min(int(3 * place[0]), 2), min(int(3 * place[1]), 2)


def words(cell: tuple[int, int]) -> str:
    return f"{ROWS[cell[0]]} {COLUMNS[cell[1]]}"


def render(folder: Path, count: int, rng: np.random.Generator) -> None:
    """Windows of five shapes of the table, with the whole block and the disc in them; two captions each."""
    from sana_wm.envs.pusht import Renderer
    from sana_wm.envs.pusht_physics import OUTLINE, TABLE, block_points, random_state

    draw = Renderer()
    folder.mkdir(parents=True, exist_ok=True)
    made = 0
    while made < count:
        state, ratio = random_state(rng), rng.choice([0.6, 0.8, 1.0, 1.25, 1.67])
        height, width = (round(390 * factor) for factor in (ratio**0.5, ratio**-0.5))
        top, left = rng.integers(TABLE - height + 1), rng.integers(TABLE - width + 1)
        points = np.concatenate([block_points(state[4:7], OUTLINE), state[None, :2] + 12, state[None, :2] - 12])
        inside = points - (left, top)
        if (inside < 0).any() or (inside > (width, height)).any():
            continue
        window = draw(state, TABLE, TABLE)[top : top + height, left : left + width]
        picture = Image.fromarray(window).resize((width // 4, height // 4), Image.Resampling.BOX)
        block, disc = (words(cell_of(place_of(window, thing))) for thing in ("block", "disc"))
        turned = round(np.degrees(state[6]) / 45) * 45 % 360
        captions = [
            f"A grey T lies at the {block}, turned by {turned} degrees, and a blue disc is at the {disc}.",
            f"The block is at the {block}. The disc is at the {disc}.",
        ]
        picture.save(folder / f"{made:05d}.png")
        (folder / f"{made:05d}.txt").write_text("\n".join(captions) + "\n")
        made += 1


def load(folder: Path) -> dict[tuple[int, int], torch.Tensor]:
    """Pictures in [-1, 1] by size, each (N, 3, H, W)."""
    found: dict[tuple[int, int], list[torch.Tensor]] = {}
    for one in list_pictures(folder)[0]:
        picture = open_picture(one.picture.read())
        size = nearest_bin(picture.height, picture.width, BASE, CELL)
        found.setdefault(size, []).append(to_pixels(picture, *size))
    return {size: torch.cat(parts) for size, parts in found.items()}


def fit_autoencoder(
    pictures: dict[tuple[int, int], torch.Tensor], minutes: float, seed: int, start: Path | None = None
) -> DCAE:
    """From weights at random, or from those in a folder."""
    torch.manual_seed(seed)
    rng, began = np.random.default_rng(seed), time.monotonic()
    stages = {"widths": (16, 24, 48, 96, 128), "encoder_layers": (0, 1, 1, 1, 1), "decoder_layers": (0, 1, 1, 1, 1)}
    kinds = {"block_types": ("res",) * 5, "multiscales": ((),) * 5, "upsample": "pixel_shuffle"}
    dcae = DCAE(DCAEConfig(latent_channels=16, **stages, **kinds)) if start is None else DCAE.from_pretrained(start)
    dcae.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(dcae.parameters(), lr=2e-3, weight_decay=0.01)
    sizes, share = list(pictures), np.array([len(part) for part in pictures.values()], np.float64)
    step, done = 0, 0.0
    while done < 1:
        done = (time.monotonic() - began) / (60 * minutes)
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 50) * max(0.02, 0.5 + 0.5 * np.cos(np.pi * min(done, 1)))
        part = pictures[sizes[rng.choice(len(sizes), p=share / share.sum())]]
        pixels = part[torch.from_numpy(rng.integers(len(part), size=16))].contiguous(memory_format=torch.channels_last)
        latents = dcae.encode(pixels)
        noisy = latents + 0.1 * latents.detach().std() * torch.randn(latents.shape)
        losses = pixel_losses(dcae.decode(noisy) - 1, pixels - 1, foreground=8.0)  # what is white counts less
        optimizer.zero_grad()
        losses["loss"].backward()
        torch.nn.utils.clip_grad_norm_(dcae.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 100 == 0:
            print(f"autoencoder: step {step}, PSNR {10 * np.log10(4 / losses['mse'].item()):.1f} dB", flush=True)
    with torch.no_grad():
        spread = torch.cat([dcae.encode(part[:64]).flatten() for part in pictures.values()]).std()
    config = DCAEConfig.from_dict(dcae.config.to_dict() | {"scaling_factor": round(1 / float(spread), 4)})
    finished = DCAE(config)
    finished.load_state_dict(dcae.state_dict())
    return finished.eval()


def text_parts(captions: list[str], seed: int, width: int = 96):
    """A Gemma-2 with random weights, and a tokenizer of Gemma's kind that knows these captions."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    learner = Tokenizer(models.BPE(unk_token="<unk>"))
    learner.normalizer = normalizers.Replace(" ", "▁")
    learner.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    bytes_of = [f"<0x{byte:02X}>" for byte in range(256)]
    learner.train_from_iterator(captions, trainers.BpeTrainer(vocab_size=1024, special_tokens=special + bytes_of))
    told = json.loads(learner.to_str())["model"]
    tokenizer = GemmaTokenizer(vocab=told["vocab"], merges=[tuple(pair) for pair in told["merges"]])
    torch.manual_seed(seed)
    config = Gemma2Config(
        vocab_size=len(told["vocab"]), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, head_dim=width // 4, query_pre_attn_scalar=width // 4,
        max_position_embeddings=4096, sliding_window=4096, initializer_range=width**-0.5,
    )  # fmt: skip
    return Gemma2Model(config).eval(), tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/captioned-pusht"))
    parser.add_argument("--pictures", type=int, default=3500)
    parser.add_argument("--minutes", type=float, default=8.0, help="of fitting the autoencoder")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    folder = args.out / "pictures"
    if not folder.is_dir():  # pictures that are there are taken as they are
        render(folder, args.pictures, np.random.default_rng(args.seed))
    captions = [text for one in list_pictures(folder)[0] for text in one.captions.texts]
    model, tokenizer = text_parts([*captions, instruction("image")], args.seed)
    model.save_pretrained(args.out / "text_encoder")
    tokenizer.save_pretrained(args.out / "tokenizer")
    vae = args.out / "vae"
    start = vae if vae.is_dir() else None  # one that is there is fitted further
    fit_autoencoder(load(folder), args.minutes, args.seed, start).save_pretrained(vae, layout="diffusers")
    print(f"written: {args.out}/pictures, vae, text_encoder, tokenizer")


if __name__ == "__main__":
    main()
