"""Scores: tasks as mteb runs them, the encoder, cached embeddings, per-item scores."""
