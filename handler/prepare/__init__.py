"""Making snapshots: the only package that may import transformers, gguf and huggingface_hub. Serving never imports it."""
