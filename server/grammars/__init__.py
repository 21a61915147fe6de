"""Schemas, regular expressions and grammars from clients: bounded in size, depth and cost."""
