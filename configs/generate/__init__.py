"""The settings of python -m sana_wm.generate: a folder of their own, where `model` is a release and no group."""
