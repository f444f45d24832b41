"""How a model is run: the only folder that touches TransformerLens and transformers internals."""
