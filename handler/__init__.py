"""Pilotlight's function: one OpenAI-compatible HTTP endpoint in front of a torch engine, in one process."""

__version__ = "0.1.0"
