"""What is asked: pure text and tokens. Needs a tokenizer, never a model."""
