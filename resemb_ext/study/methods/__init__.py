"""Item vectors, domains, controls and probes that several studies use."""
