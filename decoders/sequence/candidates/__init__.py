"""Several candidate answers to one question: made, told apart, scored, and chosen among."""
