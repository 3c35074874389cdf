"""Video from a picture, a prompt and a camera path: what `python -m sana_wm.generate` does (SANA-WM, spec 7)."""
