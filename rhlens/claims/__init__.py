"""What the paper says: one file per property, from results to a verdict that could have been otherwise."""
