"""A conversation with tools, whatever endpoint it came through: its prompt, its grammar, and what its output means."""
