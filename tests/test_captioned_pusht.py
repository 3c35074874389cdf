"""The example set of docs/train_images.md: its captions are true, its parts are what training takes."""

import re

import numpy as np
import pytest
import torch

from sana_wm.data.picture_files import list_pictures, open_picture
from sana_wm.models.prompt_encoder import PromptEncoder

pytest.importorskip("cv2")
pytest.importorskip("shapely")
from examples import captioned_pusht as example  # noqa: E402


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pusht") / "pictures"
    example.render(folder, 24, np.random.default_rng(1))
    return folder


def test_captions_say_where_things_are(pictures):
    listed, lost = list_pictures(pictures)
    right = 0
    for one in listed:
        pixels = np.asarray(open_picture(one.picture.read()))
        for thing, said in (("block", r"block is at the (\w+ \w+)"), ("disc", r"disc is at the (\w+ \w+)")):
            right += (
                example.words(example.cell_of(example.place_of(pixels, thing)))
                == re.search(said, one.captions.texts[1])[1]
            )
    assert len(listed) == 24 and not lost and right >= 46  # at an edge between fields scaling may tip it


def test_the_text_encoder_tells_captions_apart(pictures):
    captions = [text for one in list_pictures(pictures)[0] for text in one.captions.texts]
    encoder = PromptEncoder(*example.text_parts(captions, seed=0, width=32), prefix="Say it: ")
    left, right = "The block is at the top left.", "The block is at the top right."
    features, mask = encoder([left, right])
    assert encoder.tokenizer.unk_token_id not in encoder.tokenizer.encode(left)
    assert float((features[0] - features[1])[mask[0] & mask[1]].abs().max()) > 0.1


def test_the_autoencoder_is_saved_with_latents_of_unit_spread(pictures, tmp_path):
    loaded = example.load(pictures)
    dcae = example.fit_autoencoder(loaded, minutes=1e-6, seed=0)
    dcae.save_pretrained(tmp_path, layout="diffusers")
    with torch.no_grad():
        latents = torch.cat([dcae.encode(part).flatten() for part in loaded.values()]) * dcae.scaling_factor
    assert 0.8 < float(latents.std()) < 1.25 and dcae.config.compression == example.CELL
