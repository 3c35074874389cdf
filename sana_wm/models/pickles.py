"""Pickles, which are not read: unpickling runs whatever a file says. Importing this does not import torch."""

PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
CONVERSION = (
    "a pickle can run anything when it is read, so it is not read. Convert it once, where you trust it: python -c "
    "\"import torch; from safetensors.torch import save_file; d = torch.load('{path}', map_location='cpu', "
    "weights_only=True); d = d.get('generator', d.get('state_dict', d)); "
    "save_file({{k: v.contiguous().clone() for k, v in d.items()}}, '{target}')\""
)
