"""Study ``untuned``: both embeddings at one set of options, nothing searched for either."""
