"""What people look at: figures, HTML views, terminal tables."""
