"""The engine: continuous batching of one causal language model in one thread. Knows no HTTP and no asyncio."""
