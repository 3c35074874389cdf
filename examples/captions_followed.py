"""Do pictures follow their captions? Positions read from pictures of a release trained on examples/captioned_pusht.py.

python examples/captions_followed.py --release runs/pusht-images/release --pictures runs/captioned-pusht/pictures

Every caption is that of a picture that training has not seen. The block and the disc are found by their colours; a
hit is the field of 3 x 3 that the caption names. Beside it: the same pictures held against the caption of the next
one, and the real pictures through the autoencoder, which is as well as can be told from pictures of this sharpness.
"""

import argparse
import re
from pathlib import Path

import numpy as np
import torch
from captioned_pusht import BASE, CELL, cell_of, place_of, words

from sana_wm.data.picture_files import open_picture
from sana_wm.evaluation.intervals import wilson
from sana_wm.generation.image import ImagePipeline
from sana_wm.generation.image_file import to_pictures, to_pixels
from sana_wm.generation.image_release import instruction_of, load_text_encoder, sampling_of
from sana_wm.models.dc_ae import DCAE
from sana_wm.models.transformer import SanaTransformer
from sana_wm.training.image_data import ImageData, sort_pictures
from sana_wm.training.image_samples import save_picture, sheet

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--release", type=Path, required=True)
parser.add_argument("--pictures", type=Path, required=True)
parser.add_argument("--held-out", type=float, default=0.05, help="as in training")
parser.add_argument("--guidance", type=float, default=None)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--sheet", type=Path, default=None, help="a PNG of real pictures above made ones")
args = parser.parse_args()

data = ImageData(str(args.pictures), held_out=args.held_out)
pictures = sort_pictures(data, BASE, CELL, args.pictures.parent / "notes.json", lambda done, total: None)
sampling = sampling_of(str(args.release), args.release)
if args.guidance is not None:
    sampling = sampling.__class__(**vars(sampling) | {"guidance": args.guidance})
encoder = load_text_encoder(args.release, instruction_of(sampling), torch.float32)
transformer = SanaTransformer.from_pretrained(args.release / "transformer")
dcae = DCAE.from_pretrained(args.release / "vae")
pipeline = ImagePipeline(transformer, dcae, encoder, sampling, BASE)

captions, found, shown = [], {"made": [], "real": []}, []
for size, bin_ in pictures.bins.items():
    for start in range(0, pictures.held_out[size], 32):
        part = bin_[start : min(start + 32, pictures.held_out[size])]
        told = [texts.texts[0] for _, texts in part]
        seeds = [args.seed + len(captions) + i for i in range(len(part))]
        made = pipeline(told, seeds, height=size[0], width=size[1])
        pixels = torch.cat([to_pixels(open_picture(one.picture.read()), *size) for one, _ in part])
        with torch.no_grad():
            real = to_pictures(dcae.decode(dcae.encode(pixels)))
        captions += told
        found["made"] += made
        found["real"] += real
        shown += list(zip(to_pictures(pixels), made, strict=True))[:3]

print(f"{len(captions)} captions, guidance {sampling.guidance:g}, {sampling.steps} steps")
for thing, said in {"block": r"T lies at the (\w+ \w+)", "disc": r"disc is at the (\w+ \w+)"}.items():
    named = [re.search(said, caption)[1] for caption in captions]
    for kind, others in (("made", named), ("made", named[1:] + named[:1]), ("real", named)):
        places = [place_of(np.asarray(picture), thing) for picture in found[kind]]
        hits = sum(
            place is not None and words(cell_of(place)) == name for place, name in zip(places, others, strict=True)
        )
        low, high = wilson(hits, len(captions))
        what = {"made": "pictures", "real": "real pictures, autoencoded"}[kind]
        what += "" if others is named else " against the next caption"
        lost = sum(place is None for place in places)
        print(f"{thing:>5}: {what:<40} {hits / len(captions):.3f} ({low:.3f} to {high:.3f}), not found {lost}")
if args.sheet is not None:
    save_picture(sheet(list(zip(*shown[:15], strict=True))), args.sheet)
