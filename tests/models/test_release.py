"""Finding the components of a release, and saying what is missing where."""

import pytest

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
