"""One embedder from a backbone and triples: batches, gradient cache, InfoNCE, the trainer, its fingerprint."""
