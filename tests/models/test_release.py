"""Finding the components of a release, and saying what is missing where."""

from fnmatch import fnmatch
from types import SimpleNamespace

import pytest

from sana_wm.generation.refine import part_of
from sana_wm.models.published import BIDIRECTIONAL, CHUNK_CAUSAL, GEMMA, STREAMING
from sana_wm.models.release import NEEDS, is_release, locate_release


def folder_with(tmp_path, *names):
    for name in names:
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


def test_a_whole_release(tmp_path):
    root = folder_with(tmp_path / "release", *NEEDS)
    (root / "sana_wm.json").write_text('{"preset": "sana-wm-streaming"}')
    release = locate_release(root)
    assert {name: getattr(release, name) for name in NEEDS} == {name: root / name for name in NEEDS}
    assert release.settings == {"preset": "sana-wm-streaming"} and is_release(root)


def test_optional_components_are_asked_for_when_needed(tmp_path):
    release = locate_release(folder_with(tmp_path, "transformer", "vae"))
    assert release.text_encoder is None and release.settings == {}
    with pytest.raises(ValueError, match=r"text_encoder: Gemma-2(.|\n)*refiner: the LTX-2 refiner"):
        release.need("text_encoder", "refiner")
    release.need("vae")


def test_missing_components_are_named_with_their_place(tmp_path):
    with pytest.raises(ValueError, match=r"vae=<path>(.|\n)*vae: the LTX-2 video autoencoder"):
        locate_release(folder_with(tmp_path, "transformer"))


def test_components_can_come_from_elsewhere(tmp_path):
    root = folder_with(tmp_path / "a", "transformer", "vae")
    other = folder_with(tmp_path / "b", "better_vae") / "better_vae"
    assert locate_release(root, vae=other, text_encoder=None).vae == other
    with pytest.raises(ValueError, match="no such file"):
        locate_release(root, vae=tmp_path / "nothing")
    with pytest.raises(ValueError, match="unknown components"):
        locate_release(root, decoder=other)


def test_nvlabs_single_file(tmp_path):
    root = folder_with(tmp_path, "vae")
    (root / "SANA_WM.safetensors").touch()
    assert locate_release(root).transformer == root / "SANA_WM.safetensors"


def test_the_folders_of_nvlabs(tmp_path):
    root = folder_with(tmp_path / "SANA-WM_streaming", "sana_dit", "ltx2_causal_vae", "refiner_diffusers", "gemma3_12b")
    release = locate_release(root)
    assert (release.transformer, release.vae) == (root / "sana_dit", root / "ltx2_causal_vae")
    assert release.refiner == root / "refiner_diffusers" and is_release(root)


class Hub:
    """A hub whose repositories hold these files; what is fetched lies under ``cache``."""

    def __init__(self, cache, files):
        self.cache, self.files, self.fetched = cache, files, []

    def snapshot_download(self, repo, *, allow_patterns=None, ignore_patterns=()):
        for file in self.files[repo]:
            allowed = allow_patterns is None or any(fnmatch(file, pattern) for pattern in allow_patterns)
            if allowed and not any(fnmatch(file, pattern) for pattern in ignore_patterns):
                (self.cache / repo / file).parent.mkdir(parents=True, exist_ok=True)
                (self.cache / repo / file).touch()
                self.fetched.append(f"{repo.split('/')[1]}/{file}")
        return str(self.cache / repo)

    def model_info(self, repo, timeout=None):
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=file) for file in self.files[repo]])


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Repositories as they are published, with files enough to tell them apart."""
    import huggingface_hub

    weights = "diffusion_pytorch_model.safetensors"
    refiner = [f"refiner/{part}/{weights}" for part in ("transformer", "connectors", "text_encoder")]
    diffusers = ["transformer/config.json", f"transformer/{weights}", f"vae/{weights}", "text_encoder/config.json",
                 "tokenizer/tokenizer.json", "model_index.json", *refiner]  # fmt: skip
    hub = Hub(tmp_path / "hub", {
        BIDIRECTIONAL + "-diffusers": diffusers,
        BIDIRECTIONAL: ["config.yaml", "dit/sana_wm_1600m_720p.safetensors", f"vae/{weights}", *refiner],
        CHUNK_CAUSAL: ["config.yaml", "dit/sana_wm_chunk_causal_1600m_720p.safetensors"],
        STREAMING: ["sana_dit/model.pt", f"ltx2_causal_vae/{weights}", f"refiner_diffusers/transformer/{weights}",
                    "gemma3_12b/tokenizer.json"],
        GEMMA: ["config.json", "model-00001-of-00001.safetensors", "tokenizer.json"],
    })  # fmt: skip
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, *args, **how: hub.model_info(*args, **how))
    return hub


@pytest.mark.parametrize("name", ["sana-wm", BIDIRECTIONAL, "sana-wm-chunk-causal"])
def test_published_releases_are_put_together(hub, name):
    """Every component is there, and the refiner, which is larger than all of them, is not fetched until it is asked."""
    release = locate_release(name)
    for component in ("transformer", "vae", "text_encoder", "tokenizer"):
        assert any(getattr(release, component).iterdir()), component
    assert release.refiner is None and not any("refiner/" in file for file in hub.fetched)
    with_refiner = locate_release(name, refine=True)
    assert (with_refiner.refiner / "transformer").is_dir() and release.transformer == with_refiner.transformer


def test_the_chunk_causal_release_takes_what_it_shares_from_others(hub):
    release = locate_release("sana-wm-chunk-causal")
    assert [path.name for path in release.transformer.iterdir()] == ["sana_wm_chunk_causal_1600m_720p.safetensors"]
    assert release.vae == hub.cache / BIDIRECTIONAL / "vae"
    assert release.text_encoder == release.tokenizer == hub.cache / GEMMA
    assert not any(file.startswith("SANA-WM_bidirectional/dit") for file in hub.fetched)


def test_the_streaming_release_needs_a_conversion_that_is_told_before_anything_is_fetched(hub, tmp_path):
    with pytest.raises(ValueError, match=r"hf download .*SANA-WM_streaming sana_dit/model.pt") as error:
        locate_release("sana-wm-streaming")
    for words in ("weights_only=True", "transformer=<folder>/sana_dit/model.safetensors", "preset=sana-wm-streaming"):
        assert words in str(error.value)
    assert not hub.fetched
    (converted := tmp_path / "model.safetensors").touch()
    release = locate_release("sana-wm-streaming", refine=True, transformer=converted)
    assert release.transformer == converted and release.vae == hub.cache / STREAMING / "ltx2_causal_vae"
    assert part_of(release.refiner, "transformer") == hub.cache / STREAMING / "refiner_diffusers/transformer"
    assert part_of(release.refiner, "tokenizer").resolve() == hub.cache / STREAMING / "gemma3_12b"


def test_without_network_the_error_says_what_is_needed_where(monkeypatch):
    import huggingface_hub

    def offline(*args, **kwargs):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", offline)
    with pytest.raises(ValueError) as error:
        locate_release("sana-wm")
    for words in ("hf download Efficient-Large-Model/SANA-WM_bidirectional-diffusers", "<folder>/vae", "Gemma-2-2b-it"):
        assert words in str(error.value)
    with pytest.raises(ValueError, match="known names: sana-wm"):
        locate_release("sana-vm")


def test_damaged_settings(tmp_path):
    root = folder_with(tmp_path, "transformer", "vae")
    (root / "sana_wm.json").write_text("{")
    with pytest.raises(ValueError, match="sana_wm.json: not JSON"):
        locate_release(root)
