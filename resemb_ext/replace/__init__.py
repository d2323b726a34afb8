"""Tables of a model replaced by Res-embeddings over a graph, and put back."""
