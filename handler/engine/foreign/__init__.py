"""Runs what our decoder does not know through transformers' model classes, on our scheduler and cache.

The only part of the engine that imports transformers; `handler.engine.architecture` imports it when such a model comes.
"""
