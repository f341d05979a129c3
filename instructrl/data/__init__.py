"""Object storage, demonstrations, image-text pairs, cached features, tokenizers and data loaders."""
