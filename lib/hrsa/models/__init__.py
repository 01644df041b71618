"""Weights: load and prove any decoder, resolve a backbone, adapters, the embedder made of it; `zoo` makes backbones."""
