"""The documentation: reference pages made from the code, and what MkDocs is given beside docs/."""
