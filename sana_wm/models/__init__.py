"""Networks: the transformer of the SANA family, the deep-compression autoencoder and the heads."""
