"""Methods that produce and choose whole sequences."""
