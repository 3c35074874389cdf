"""Names of SANA's video members that this package generates with. Importing this does not import torch."""

from __future__ import annotations

_HUB = "Efficient-Large-Model/"
RELEASES = {
    "sana-video-2b": _HUB + "SANA-Video_2B_480p_diffusers",
    "sana-video-2b-480p": _HUB + "SANA-Video_2B_480p_diffusers",
    "sana-video-2b-720p": _HUB + "SANA-Video_2B_720p_diffusers",
    "longsana-2b": _HUB + "SANA-Video_2B_480p_LongLive_diffusers",
    "longsana-2b-480p": _HUB + "SANA-Video_2B_480p_LongLive_diffusers",
}
PRESETS = {"sana-video-2b": "sana-video-2b-480p", "longsana-2b": "longsana-2b-480p"}  # of the short names
PIPELINES = (
    "SanaVideoPipeline", "SanaImageToVideoPipeline", "LongSanaVideoPipeline",  # the last is of a draft of diffusers
)  # fmt: skip


def preset_of(model: str) -> str | None:
    """The member of the family that a name or hub repository of :data:`RELEASES` is; None: neither."""
    for name, repo in RELEASES.items():
        if model in (name, repo):
            return PRESETS.get(name, name)
    return None
