"""Readers that yield a model's weights as a stream of (name, tensor), in Hugging Face names."""
