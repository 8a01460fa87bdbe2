"""How many requests and tokens a minute each API key may have."""
