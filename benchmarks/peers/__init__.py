"""Two other kinds of world model beside `SanaWM`, on the same data for the same training time.

They are here for comparison only: a DIAMOND-style denoiser (`unet`) and a LeWM-style JEPA (`jepa`), written plainly.
"""
