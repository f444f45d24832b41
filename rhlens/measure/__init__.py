"""What is measured: a model and trials go in, results come out."""
