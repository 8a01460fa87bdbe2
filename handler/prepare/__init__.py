"""Makes snapshots. Only this package imports transformers and huggingface_hub; serving never imports it."""
