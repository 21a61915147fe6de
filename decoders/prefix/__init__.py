"""What of a finished request's context later requests need not compute again."""
