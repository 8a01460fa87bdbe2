"""The wire formats of what generates: a request becomes a plan for the engine, what the engine yields an answer."""
