"""One line in other frameworks: an adapter each, imported by name, for example ``resemb_ext.integrations.fuxictr``."""
