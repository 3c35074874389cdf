"""Products in bfloat16 without the processor's help: float32's numbers rounded once, and everything else untouched."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sana_wm.models.dc_ae import DCAE, DCAEConfig
from sana_wm.models.presets import preset
from sana_wm.models.quantised import quantise
from sana_wm.models.transformer import SanaTransformer
from sana_wm.nn import widened
from sana_wm.nn.widened import WideProducts, products_of

LAST = torch.channels_last


@pytest.fixture(autouse=True)
def without_instructions(monkeypatch):
    monkeypatch.setattr(widened, "multiplies_bfloat16", lambda: False)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


X, W, B = drawn(2, 5, 7), drawn(11, 7, seed=1), drawn(11, seed=2)
PICTURE, DENSE, APART = drawn(3, 6, 5, 9), drawn(4, 6, 3, 3, seed=1), drawn(6, 1, 3, 3, seed=2)
PRODUCTS = {
    "linear": lambda c: F.linear(c(X), c(W), c(B)),
    "linear without bias": lambda c: F.linear(c(X), c(W)),
    "conv1d": lambda c: F.conv1d(c(drawn(2, 3, 8)), c(drawn(4, 3, 3)), padding=1),
    "conv2d": lambda c: F.conv2d(c(PICTURE), c(DENSE), c(B[:4]), stride=2, padding=1),
    "channels last": lambda c: F.conv2d(c(PICTURE).to(memory_format=LAST), c(DENSE), padding=(1, 0)),
    "depthwise": lambda c: F.conv2d(c(PICTURE).to(memory_format=LAST), c(APART), c(B[:6]), padding=1, groups=6),
    "grouped": lambda c: F.conv2d(c(PICTURE), c(drawn(4, 3, 3, 3)), groups=2, dilation=2),
    "one picture": lambda c: F.conv2d(c(PICTURE[0]), c(DENSE)),
    "no picture": lambda c: F.conv2d(c(PICTURE[:0]), c(DENSE)),
    "conv3d": lambda c: F.conv3d(c(drawn(1, 2, 4, 5, 6)), c(drawn(3, 2, 3, 3, 3)), padding=1),
    "conv3d of steps": lambda c: F.conv3d(c(drawn(2, 2, 4, 7, 6)), c(drawn(3, 2, 3, 3, 3)), None, (1, 2, 2), (0, 1, 1)),
    "wide border": lambda c: F.conv2d(c(PICTURE), c(DENSE), c(B[:4]), padding=4, dilation=(1, 2), stride=(3, 1)),
    "border in words": lambda c: F.conv2d(c(PICTURE), c(DENSE), padding="same"),
    "matmul": lambda c: c(X) @ c(X).transpose(-1, -2),
    "einsum": lambda c: torch.einsum("bnc,bmc->bnm", c(X), c(X)),
    "addmm": lambda c: torch.addmm(c(B), c(X[0]), c(W).T),
}


@pytest.mark.parametrize("part", [2**21, 20])
@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_is_that_of_float32_rounded_once(name, part, monkeypatch):
    monkeypatch.setattr(widened, "PART", part)
    wanted = PRODUCTS[name](lambda x: x.float())
    with torch.no_grad(), WideProducts():
        found = PRODUCTS[name](lambda x: x)
    assert found.dtype == torch.bfloat16 and found.shape == wanted.shape
    assert found.is_contiguous(memory_format=LAST if wanted.ndim == 4 else torch.contiguous_format) == (
        wanted.is_contiguous(memory_format=LAST if wanted.ndim == 4 else torch.contiguous_format)
    )
    # half a unit in the last of 8 bits, and sums in another order
    torch.testing.assert_close(found.float(), wanted, rtol=2**-8 * 1.01, atol=1e-5)


def test_what_is_no_product_of_bfloat16_is_left_alone():
    with torch.no_grad(), WideProducts():
        assert F.linear(X.float(), W.float()).dtype == torch.float32
        assert (X.double() @ X.double().transpose(-1, -2)).dtype == torch.float64
        assert (X + X).dtype == torch.bfloat16
        with pytest.raises(RuntimeError, match="dtype"):
            F.linear(X, W.float())
        with torch.autocast("cpu", torch.bfloat16):
            assert F.linear(X.float(), W.float()).dtype == torch.bfloat16


def test_it_is_for_modules_in_bfloat16_on_processors_without_its_products(monkeypatch):
    narrow, wide = nn.Linear(2, 2).bfloat16(), nn.Linear(2, 2)
    assert not isinstance(products_of(narrow), WideProducts)  # gradients are recorded
    with torch.no_grad():
        assert isinstance(products_of(narrow), WideProducts)
        for module in (wide, nn.Identity(), nn.Linear(2, 2, device="meta", dtype=torch.bfloat16)):
            assert not isinstance(products_of(module), WideProducts)
        monkeypatch.setattr(widened, "multiplies_bfloat16", lambda: True)
        assert not isinstance(products_of(narrow), WideProducts)


def seen(monkeypatch):
    """Dtypes in which products of large tensors are taken from now on."""
    found, plain = set(), WideProducts._linear

    def linear(self, *args, **kwargs):
        found.add(args[0].dtype)
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(WideProducts, "_linear", linear)
    return found


@pytest.mark.parametrize("kind", [None, "int8", "int4"])
def test_a_transformer_in_bfloat16_stays_near_float32(kind, monkeypatch):
    if kind is not None:
        pytest.importorskip("torchao")
    found = seen(monkeypatch)
    torch.manual_seed(0)
    config = preset("sana-600m", width=64, depth=2, heads=2, text_dim=24)
    network = SanaTransformer(config).requires_grad_(False).eval()
    for parameter in network.parameters():  # a fresh one ends in zeros
        parameter.add_(torch.randn_like(parameter), alpha=0.1)
    if kind is not None:
        quantise(network, kind)
    inputs = (torch.randn(2, 32, 1, 6, 5), torch.full((2,), 500.0), torch.randn(2, 9, 24))
    with torch.no_grad():
        wanted = network(*inputs).velocity
        assert not found
        made = network.bfloat16()(*inputs).velocity
    assert found == {torch.bfloat16}
    assert (made.float() - wanted).norm() < 0.03 * wanted.norm()


def test_an_autoencoder_in_bfloat16_stays_near_float32(monkeypatch):
    found = seen(monkeypatch)
    torch.manual_seed(0)
    layers = {"encoder_layers": (1, 1, 1), "decoder_layers": (1, 1, 1), "multiscales": ((), (), (5,))}
    blocks = {"head_dim": 8, "widths": (8, 16, 32), "block_types": ("res", "res", "vit")}
    config = DCAEConfig(latent_channels=4, **blocks, **layers)
    network = DCAE(config).requires_grad_(False).eval()
    pictures = torch.rand(1, 3, 64, 96) * 2 - 1
    with torch.no_grad():
        latents = network.encode(pictures)
        wanted = network.decode(latents)
        network.bfloat16()
        made = network.decode(latents.bfloat16()), network.encode(pictures.bfloat16())
    assert found == {torch.bfloat16} and made[0].dtype == torch.bfloat16
    assert (made[0].float() - wanted).norm() < 0.05 * wanted.norm()
    assert (made[1].float() - latents).norm() < 0.05 * latents.norm()
