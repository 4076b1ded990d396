"""Inference servers: prompt tokens in, chunks of new tokens out."""
