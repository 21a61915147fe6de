"""Methods that change the next-token distribution."""
