"""`pilotlight bench http`: what the function costs around a model, beside a bare ASGI response and FastAPI."""
