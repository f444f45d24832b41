"""What was found: pure data. No model, no torch, no plotting."""
