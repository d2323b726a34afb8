"""`resemb train` on real behaviour logs, cell by cell; `docs/results.md` is rendered from its JSON."""
