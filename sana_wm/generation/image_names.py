"""Names of SANA's image members. Importing this does not import torch: the command looks here before it does."""

from __future__ import annotations

_HUB = "Efficient-Large-Model/"
RELEASES = {
    "sana-600m-512": _HUB + "Sana_600M_512px_diffusers",
    "sana-600m": _HUB + "Sana_600M_1024px_diffusers",
    "sana-1600m-512": _HUB + "Sana_1600M_512px_diffusers",
    "sana-1600m": _HUB + "Sana_1600M_1024px_BF16_diffusers",
    "sana-1600m-2k": _HUB + "Sana_1600M_2Kpx_BF16_diffusers",
    "sana-1600m-4k": _HUB + "Sana_1600M_4Kpx_BF16_diffusers",
    "sana1.5-1600m": _HUB + "SANA1.5_1.6B_1024px_diffusers",
    "sana1.5-4800m": _HUB + "SANA1.5_4.8B_1024px_diffusers",
    "sana-sprint-600m": _HUB + "Sana_Sprint_0.6B_1024px_diffusers",
    "sana-sprint-1600m": _HUB + "Sana_Sprint_1.6B_1024px_diffusers",
}
PIPELINES = ("SanaPipeline", "SanaPAGPipeline", "SanaSprintPipeline", "SanaSprintImg2ImgPipeline")
