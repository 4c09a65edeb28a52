"""Pure array functions, no Flax: patches, position embeddings, masking."""
