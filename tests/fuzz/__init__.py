"""Bad inputs in large numbers: `python -m tests.fuzz`. The same seed makes the same inputs."""
