"""Methods that decide what of the context is kept."""
